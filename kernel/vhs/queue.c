// SPDX-License-Identifier: GPL-2.0
/* Receive queues: their rings, their page pools, and restarts of one. */

#include <linux/dma-mapping.h>

#include "vhs.h"

/* It learns of its NAPI when that starts; one that is destroyed before has none. */
static struct page_pool *vhs_pool(struct vhs_rxq *rxq, u32 buf_size,
				  unsigned int flags)
{
	struct net_device *dev = rxq->port->dev;
	struct page_pool_params params = {
		.order = get_order(buf_size),
		/* Its ring keeps as many bytes of buffers of any size. */
		.pool_size = DIV_ROUND_UP(rxq->port->ring_size * PAGE_SIZE,
					  buf_size),
		.nid = NUMA_NO_NODE,
		.dev = dev->dev.parent,
		.dma_dir = DMA_FROM_DEVICE,
		.max_len = PAGE_SIZE << get_order(buf_size),
		.netdev = dev,
		.queue_idx = rxq->index,
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | flags,
	};

	return page_pool_create(&params);
}

static int vhs_mem_alloc(struct vhs_rxq *rxq, u32 buf_size,
			 struct vhs_rx_mem *mem)
{
	unsigned int flags = 0;

	if (rxq->port->hds_config == ETHTOOL_TCP_DATA_SPLIT_ENABLED)
		flags = PP_FLAG_ALLOW_UNREADABLE_NETMEM;
	mem->buf_size = buf_size;
	mem->payload = vhs_pool(rxq, buf_size, flags);
	return PTR_ERR_OR_ZERO(mem->payload);
}

/* A packet has arrived. */
static enum hrtimer_restart vhs_timer(struct hrtimer *timer)
{
	struct vhs_rxq *rxq = container_of(timer, struct vhs_rxq, timer);

	napi_schedule(&rxq->napi);
	return HRTIMER_NORESTART;
}

int vhs_rxq_open(struct vhs_rxq *rxq)
{
	struct vhs_port *port = rxq->port;
	int err;

	err = ptr_ring_init(&rxq->ring, port->ring_size, GFP_KERNEL);
	if (err)
		return err;
	/* What has been taken out makes room at once. */
	rxq->ring.batch = 1;
	rxq->host = vhs_pool(rxq, PAGE_SIZE, 0);
	if (IS_ERR(rxq->host)) {
		err = PTR_ERR(rxq->host);
		goto err_ring;
	}
	err = vhs_mem_alloc(rxq, vhs_rx_page_size(port->dev, rxq->index),
			    &rxq->mem);
	if (err)
		goto err_host;
	vhs_napi_add(port->dev, &rxq->napi, vhs_poll, rxq->index);
	vhs_timer_setup(&rxq->timer, vhs_timer, CLOCK_MONOTONIC,
			HRTIMER_MODE_ABS);
	return 0;

err_host:
	page_pool_destroy(rxq->host);
err_ring:
	ptr_ring_cleanup(&rxq->ring, NULL);
	return err;
}

static void vhs_drop(void *skb)
{
	kfree_skb(skb);
}

/* No packet arrives any more. */
void vhs_rxq_close(struct vhs_rxq *rxq)
{
	vhs_napi_del(&rxq->napi);
	kfree_skb(rxq->held);
	rxq->held = NULL;
	ptr_ring_cleanup(&rxq->ring, vhs_drop);
	page_pool_destroy(rxq->mem.payload);
	page_pool_destroy(rxq->host);
}

void vhs_rxq_enable(struct vhs_rxq *rxq)
{
	struct net_device *dev = rxq->port->dev;

	vhs_recycle_directly(rxq->host, &rxq->napi);
	vhs_recycle_directly(rxq->mem.payload, &rxq->napi);
	vhs_napi_enable(&rxq->napi);
	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_RX, &rxq->napi);
	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_TX, &rxq->napi);
}

void vhs_rxq_disable(struct vhs_rxq *rxq)
{
	struct net_device *dev = rxq->port->dev;

	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_TX, NULL);
	netif_queue_set_napi(dev, rxq->index, NETDEV_QUEUE_TYPE_RX, NULL);
	vhs_napi_disable(&rxq->napi);
	hrtimer_cancel(&rxq->timer);
}

void vhs_rxq_kick(struct vhs_rxq *rxq)
{
	local_bh_disable();
	napi_schedule(&rxq->napi);
	local_bh_enable();
}

static int vhs_queue_mem_alloc(struct net_device *dev, VHS_QCFG_PARAM
			       void *qmem, int idx)
{
	struct vhs_port *port = netdev_priv(dev);

	return vhs_mem_alloc(&port->rxq[idx], VHS_QCFG_PAGE_SIZE, qmem);
}

static void vhs_queue_mem_free(struct net_device *dev, void *qmem)
{
	struct vhs_rx_mem *mem = qmem;

	page_pool_destroy(mem->payload);
}

static int vhs_queue_start(struct net_device *dev, VHS_QCFG_PARAM
			   void *qmem, int idx)
{
	struct vhs_port *port = netdev_priv(dev);
	struct vhs_rxq *rxq = &port->rxq[idx];
	struct vhs_rx_mem *mem = qmem;

	rxq->mem = *mem;
	vhs_recycle_directly(rxq->mem.payload, &rxq->napi);
	vhs_napi_enable(&rxq->napi);
	/* The ring went on filling. */
	vhs_rxq_kick(rxq);
	return 0;
}

static int vhs_queue_stop(struct net_device *dev, void *qmem, int idx)
{
	struct vhs_port *port = netdev_priv(dev);
	struct vhs_rxq *rxq = &port->rxq[idx];
	struct vhs_rx_mem *mem = qmem;

	if (!port->running)
		return -ENETDOWN;
	vhs_napi_disable(&rxq->napi);
	*mem = rxq->mem;
	page_pool_disable_direct_recycling(mem->payload);
	return 0;
}

#ifdef VHS_HAVE_QCFG
static void vhs_default_qcfg(struct net_device *dev,
			     struct netdev_queue_config *qcfg)
{
	qcfg->rx_page_size = PAGE_SIZE;
}

static int vhs_validate_qcfg(struct net_device *dev,
			     struct netdev_queue_config *qcfg,
			     struct netlink_ext_ack *extack)
{
	if (!is_power_of_2(qcfg->rx_page_size) ||
	    qcfg->rx_page_size < PAGE_SIZE || qcfg->rx_page_size > SZ_2M) {
		NL_SET_ERR_MSG(extack,
			       "rx-page-size is a power of two from a page to 2 MiB");
		return -ERANGE;
	}
	return 0;
}
#endif

const struct netdev_queue_mgmt_ops vhs_queue_mgmt_ops = {
	.ndo_queue_mem_size	= sizeof(struct vhs_rx_mem),
	.ndo_queue_mem_alloc	= vhs_queue_mem_alloc,
	.ndo_queue_mem_free	= vhs_queue_mem_free,
	.ndo_queue_start	= vhs_queue_start,
	.ndo_queue_stop		= vhs_queue_stop,
#ifdef VHS_HAVE_QCFG
	.ndo_default_qcfg	= vhs_default_qcfg,
	.ndo_validate_qcfg	= vhs_validate_qcfg,
	.supported_params	= QCFG_RX_PAGE_SIZE,
#endif
};
