/* SPDX-License-Identifier: GPL-2.0 */
/* All that differs between Linux 6.12, which has devmem RX only, and 7.3. */
#ifndef VHS_COMPAT_H
#define VHS_COMPAT_H

#include <linux/ethtool.h>
#include <linux/ethtool_netlink.h>
#include <linux/hrtimer.h>
#include <linux/netdevice.h>
#include <linux/version.h>
#include <net/netdev_queues.h>
#include <net/netdev_rx_queue.h>
#include <net/page_pool/helpers.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)

#include <net/netdev_lock.h>

#define VHS_HAVE_QCFG
#define VHS_HAVE_CSUM_COMPLETE
#define VHS_HAVE_HDS_THRESH
#define VHS_HAVE_RXFH_FIELDS
#define VHS_HAVE_NETMEM_TX
#define VHS_IMPORT_NS_DMA_BUF	MODULE_IMPORT_NS("DMA_BUF")
#define VHS_QCFG_PARAM		struct netdev_queue_config *qcfg,
#define VHS_QCFG_PAGE_SIZE	(qcfg->rx_page_size)
#define vhs_napi_add		netif_napi_add_config_locked
#define vhs_napi_del		netif_napi_del_locked
#define vhs_napi_enable		napi_enable_locked
#define vhs_napi_disable	napi_disable_locked
#define vhs_recycle_directly	page_pool_enable_direct_recycling
#define vhs_timer_setup		hrtimer_setup
#define VHS_NEEDS_RTNL							\
	.op_needs_rtnl = ETHTOOL_OP_NEEDS_RTNL_SCHANNELS |		\
			 ETHTOOL_OP_NEEDS_RTNL_SRINGPARAM |		\
			 ETHTOOL_OP_NEEDS_RTNL_GLINK,
#define VHS_RSS_CONTEXTS

static inline u32 vhs_rx_page_size(struct net_device *dev, int idx)
{
	struct netdev_queue_config qcfg;

	netdev_queue_config(dev, idx, &qcfg);
	return qcfg.rx_page_size;
}

static inline netmem_ref vhs_alloc_netmem(struct page_pool *pool, u32 *offset,
					  u32 *size)
{
	return page_pool_dev_alloc_netmem(pool, offset, size);
}

/* Is memory bound to a queue, and has ethtool not looked? */
static inline bool vhs_bound(struct net_device *dev)
{
	return false;
}

#else

#define VHS_QCFG_PARAM
#define VHS_QCFG_PAGE_SIZE	PAGE_SIZE
#define vhs_napi_del		netif_napi_del
#define vhs_napi_enable		napi_enable
#define vhs_napi_disable	napi_disable
#define VHS_NEEDS_RTNL
#define VHS_RSS_CONTEXTS	.cap_rss_ctx_supported = true,
#define VHS_IMPORT_NS_DMA_BUF	MODULE_IMPORT_NS(DMA_BUF)
/* Hash fields are got and set by the same calls as rules, in their form. */
#define ethtool_rxfh_fields	ethtool_rxnfc
/* Its name of 7.3 came to Debian's 6.12 with 6.12.117, after 6.12.107. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 117)
#define page_pool_alloc_netmems	page_pool_alloc_netmem
#endif

static inline void vhs_napi_add(struct net_device *dev,
				struct napi_struct *napi,
				int (*poll)(struct napi_struct *, int), int idx)
{
	netif_napi_add(dev, napi, poll);
}

static inline void vhs_recycle_directly(struct page_pool *pool,
					struct napi_struct *napi)
{
	WRITE_ONCE(pool->p.napi, napi);
}

static inline void
vhs_timer_setup(struct hrtimer *timer,
		enum hrtimer_restart (*function)(struct hrtimer *),
		clockid_t clock, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock, mode);
	timer->function = function;
}

static inline u32 vhs_rx_page_size(struct net_device *dev, int idx)
{
	return PAGE_SIZE;
}

static inline netmem_ref vhs_alloc_netmem(struct page_pool *pool, u32 *offset,
					  u32 *size)
{
	*offset = 0;
	*size = PAGE_SIZE << pool->p.order;
	return page_pool_alloc_netmems(pool, GFP_ATOMIC | __GFP_NOWARN);
}

static inline bool vhs_bound(struct net_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->real_num_rx_queues; i++)
		if (__netif_get_rx_queue(dev, i)->mp_params.mp_priv)
			return true;
	return false;
}

#endif
#endif
