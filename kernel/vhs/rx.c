// SPDX-License-Identifier: GPL-2.0
/* Reception: from the ring, through the header splitter, to the stack. */

#include <linux/etherdevice.h>
#include <net/checksum.h>

#include "vhs.h"

#define VHS_HEAD_MAX	128	/* of a packet that is not split */
#define VHS_LATE	64	/* payload that a late split leaves with the headers */

struct vhs_rx {
	struct vhs_source source;
	struct sk_buff *skb;
	bool sum;
	__wsum csum;
	u32 summed;
	u32 unreadable;
};

static bool vhs_rx_copy(struct vhs_rx *rx, void *to, u32 len)
{
	if (!vhs_dma_copy(&rx->source, to, len))
		return false;
	if (rx->sum) {
		rx->csum = csum_block_add(rx->csum, csum_partial(to, len, 0),
					  rx->summed);
		rx->summed += len;
	}
	return true;
}

static bool vhs_rx_frags(struct vhs_rx *rx, struct page_pool *pool,
			 u32 buf_size, u32 len)
{
	struct sk_buff *skb = rx->skb;

	while (len) {
		u32 n = min(len, buf_size), size = n, offset;
		netmem_ref netmem;
		void *va;

		if (skb_shinfo(skb)->nr_frags == MAX_SKB_FRAGS)
			return false;
		netmem = vhs_alloc_netmem(pool, &offset, &size);
		if (!netmem)
			return false;
		skb_add_rx_frag_netmem(skb, skb_shinfo(skb)->nr_frags, netmem,
				       offset, n, size);
		va = vhs_netmem_va(netmem);
		if (!va || !vhs_rx_copy(rx, va + offset, n))
			return false;
		if (netmem_is_net_iov(netmem))
			rx->unreadable += n;
		len -= n;
	}
	return true;
}

/* Where the linear part ends; all of it if the packet isn't split. */
static u32 vhs_split_point(struct vhs_rxq *rxq, struct sk_buff *src)
{
	struct vhs_port *port = rxq->port;
	u32 head = vhs_cb(src)->hdr_len;

	if (READ_ONCE(port->hds_config) != ETHTOOL_TCP_DATA_SPLIT_ENABLED ||
	    !head || head == src->len ||
	    src->len <= READ_ONCE(port->hds_thresh) ||
	    vhs_hit(&port->inject.split_fail, rxq->seen))
		return src->len;
	if (vhs_hit(&port->inject.split_late, rxq->seen))
		head = min(head + VHS_LATE, src->len);
	return head;
}

static void vhs_rx_offloads(struct vhs_rxq *rxq, struct vhs_rx *rx,
			    struct sk_buff *src)
{
	struct vhs_cb *cb = vhs_cb(src);
	struct sk_buff *skb = rx->skb;

	if (rx->sum) {
		skb->ip_summed = CHECKSUM_COMPLETE;
		skb->csum = rx->csum;
	} else {
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	}
	if (skb_is_gso(src)) {
		skb_shinfo(skb)->gso_size = skb_shinfo(src)->gso_size;
		skb_shinfo(skb)->gso_segs = skb_shinfo(src)->gso_segs;
		skb_shinfo(skb)->gso_type = skb_shinfo(src)->gso_type &
			(SKB_GSO_TCPV4 | SKB_GSO_TCPV6 | SKB_GSO_TCP_ECN);
	}
	if (cb->hash)
		skb_set_hash(skb, cb->hash, cb->l4_hash ? PKT_HASH_TYPE_L4 :
							  PKT_HASH_TYPE_L3);
	skb_record_rx_queue(skb, rxq->index);
	skb_mark_for_recycle(skb);
	skb->protocol = eth_type_trans(skb, rxq->port->dev);
}

static void vhs_rx_count(struct vhs_rxq *rxq, struct vhs_rx *rx,
			 struct sk_buff *src, u32 head)
{
	struct vhs_rx_stats *stats = &rxq->stats;

	u64_stats_update_begin(&rxq->syncp);
	stats->packets++;
	stats->bytes += src->len;
	stats->split_bytes += src->len - head;
	stats->linear_bytes += head;
	stats->unreadable_bytes += rx->unreadable;
	stats->dma_bytes += src->len;
	if (skb_is_gso(src)) {
		stats->gro_packets++;
		stats->gro_bytes += src->len;
		stats->gro_wire_packets += skb_shinfo(src)->gso_segs;
	}
	if (rx->sum)
		stats->csum_complete++;
	else
		stats->csum_unnecessary++;
	u64_stats_update_end(&rxq->syncp);
}

static void vhs_receive(struct vhs_rxq *rxq, struct sk_buff *src)
{
	u32 head = vhs_split_point(rxq, src);
	u32 linear = head == src->len ? min_t(u32, head, VHS_HEAD_MAX) : head;
	struct vhs_rx rx = {
		.sum = src->ip_summed != CHECKSUM_PARTIAL,
	};

	vhs_source_init(&rx.source, src);
	if (vhs_hit(&rxq->port->inject.alloc_fail, rxq->seen))
		goto err_count;
	rx.skb = napi_alloc_skb(&rxq->napi, linear);
	if (!rx.skb)
		goto err_count;
	if (!vhs_dma_copy(&rx.source, skb_put(rx.skb, linear), linear))
		goto err_free;
	if (rx.sum) {
		rx.csum = csum_partial(rx.skb->data + ETH_HLEN,
				       linear - ETH_HLEN, 0);
		rx.summed = linear - ETH_HLEN;
	}
	if (!vhs_rx_frags(&rx, rxq->host, PAGE_SIZE, head - linear) ||
	    !vhs_rx_frags(&rx, rxq->mem.payload, rxq->mem.buf_size,
			  src->len - head))
		goto err_free;

	vhs_rx_count(rxq, &rx, src, head);
	vhs_rx_offloads(rxq, &rx, src);
	napi_gro_receive(&rxq->napi, rx.skb);
	return;

err_free:
	/* Fragments go back to their pool. */
	skb_mark_for_recycle(rx.skb);
	kfree_skb(rx.skb);
err_count:
	u64_stats_update_begin(&rxq->syncp);
	rxq->stats.alloc_fail++;
	u64_stats_update_end(&rxq->syncp);
}

static void vhs_arrive(struct vhs_rxq *rxq, struct sk_buff *src, int budget)
{
	struct vhs_inject *inject = &rxq->port->inject;

	if (!vhs_hit(&inject->loss, rxq->seen)) {
		vhs_receive(rxq, src);
		if (vhs_hit(&inject->duplicate, rxq->seen))
			vhs_receive(rxq, src);
	}
	napi_consume_skb(src, budget);
}

static void vhs_release(struct vhs_rxq *rxq, int budget)
{
	struct sk_buff *held = rxq->held;

	rxq->held = NULL;
	if (held)
		vhs_arrive(rxq, held, budget);
}

int vhs_poll(struct napi_struct *napi, int budget)
{
	struct vhs_rxq *rxq = container_of(napi, struct vhs_rxq, napi);
	struct vhs_inject *inject = &rxq->port->inject;
	int done = 0;

	if (rxq->index < 32 &&
	    READ_ONCE(inject->stop_queues) & BIT(rxq->index)) {
		napi_complete_done(napi, 0);
		return 0;
	}
	while (done < budget) {
		struct sk_buff *src = ptr_ring_consume(&rxq->ring);

		if (!src)
			break;
		done++;
		rxq->seen++;
		if (!rxq->held && vhs_hit(&inject->reorder, rxq->seen)) {
			rxq->held = src;
			continue;
		}
		vhs_arrive(rxq, src, budget);
		vhs_release(rxq, budget);
	}
	if (done < budget) {
		vhs_release(rxq, budget);
		/* A packet that came since the last look schedules again. */
		if (napi_complete_done(napi, done) &&
		    !ptr_ring_empty(&rxq->ring))
			napi_schedule(napi);
	}
	return done;
}
