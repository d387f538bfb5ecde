// SPDX-License-Identifier: GPL-2.0
/* The port as a net device: up and down, transmission, statistics. */

#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <net/ip.h>
#include <net/sock.h>

#include "vhs.h"

static void vhs_link(struct vhs_port *port)
{
	if (port->running && port->peer->running) {
		netif_carrier_on(port->dev);
		netif_carrier_on(port->peer->dev);
	} else {
		netif_carrier_off(port->dev);
		netif_carrier_off(port->peer->dev);
	}
}

int vhs_open(struct net_device *dev)
{
	struct vhs_port *port = netdev_priv(dev);
	unsigned int i;
	int err;

	for (i = 0; i < dev->real_num_rx_queues; i++) {
		err = vhs_rxq_open(&port->rxq[i]);
		if (err)
			goto err_close;
	}
	for (i = 0; i < dev->real_num_rx_queues; i++)
		vhs_rxq_enable(&port->rxq[i]);
	/* Pairs with the acquire in vhs_xmit(). */
	smp_store_release(&port->running, true);
	vhs_link(port);
	netif_tx_wake_all_queues(dev);
	return 0;

err_close:
	while (i--)
		vhs_rxq_close(&port->rxq[i]);
	return err;
}

int vhs_stop(struct net_device *dev)
{
	struct vhs_port *port = netdev_priv(dev);
	unsigned int i;

	/* A change of rings or channels that failed has closed the port before. */
	if (!port->running)
		return 0;
	netif_tx_disable(dev);
	WRITE_ONCE(port->running, false);
	vhs_link(port);
	/* The peer has put its last packet into a ring. */
	synchronize_net();
	for (i = 0; i < dev->real_num_rx_queues; i++) {
		vhs_rxq_disable(&port->rxq[i]);
		vhs_rxq_close(&port->rxq[i]);
	}
	return 0;
}

static void vhs_tx_count(struct vhs_txq *txq, struct sk_buff *skb)
{
	struct vhs_tx_stats *stats = &txq->stats;

	u64_stats_update_begin(&txq->syncp);
	stats->packets++;
	stats->bytes += skb->len;
	if (skb_is_gso(skb)) {
		stats->gso_packets++;
		stats->gso_bytes += skb->len;
		stats->gso_wire_packets += skb_shinfo(skb)->gso_segs;
	}
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		stats->needs_csum += skb_is_gso(skb) ?
				     skb_shinfo(skb)->gso_segs : 1;
	u64_stats_update_end(&txq->syncp);
}

/*
 * TCP holds back what follows packets that their device has not sent, and sends
 * it on the processor that frees them: here the receiver's. So its packets are
 * let go of when they are on the wire. Others are not: UDP would fill the ring,
 * and packet(7) of 6.12 would have its ring's memory written to before it is
 * read.
 */
static bool vhs_is_tcp(const struct sk_buff *skb)
{
	return skb->sk && sk_fullsock(skb->sk) && sk_is_tcp(skb->sk);
}

static netdev_tx_t vhs_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct vhs_port *port = netdev_priv(dev), *peer = port->peer;
	struct vhs_txq *txq = &port->txq[skb_get_queue_mapping(skb)];
	struct vhs_rxq *rxq;
	unsigned int queue;
	u32 delay;

	/* Pairs with the release in vhs_open(). */
	if (unlikely(skb->len < ETH_HLEN || !smp_load_acquire(&peer->running)))
		goto err_drop;
	queue = vhs_steer(peer, skb);
	if (queue == VHS_DROP) {
		vhs_tx_count(txq, skb);
		atomic64_inc(&peer->filtered);
		consume_skb(skb);
		return NETDEV_TX_OK;
	}

	rxq = &peer->rxq[queue];
	delay = READ_ONCE(peer->inject.delay);
	if (unlikely(delay))
		vhs_cb(skb)->arrives = ktime_add_us(ktime_get(), delay);
	skb_tx_timestamp(skb);
	if (vhs_is_tcp(skb))
		skb_orphan(skb);
	/* It may wait for long. */
	nf_reset_ct(skb);
	vhs_tx_count(txq, skb);
	if (unlikely(ptr_ring_produce(&rxq->ring, skb))) {
		atomic64_inc(&rxq->ring_full);
		kfree_skb(skb);
	}
	napi_schedule(&rxq->napi);
	return NETDEV_TX_OK;

err_drop:
	u64_stats_update_begin(&txq->syncp);
	txq->stats.drops++;
	u64_stats_update_end(&txq->syncp);
	kfree_skb(skb);
	return NETDEV_TX_OK;
}

/* Only aggregates that the other end could cut: it knows Ethernet, IP without
 * extension headers, and TCP.
 */
static netdev_features_t vhs_features_check(struct sk_buff *skb,
					    struct net_device *dev,
					    netdev_features_t features)
{
	u32 size = sizeof(struct ipv6hdr);

	if (!skb_is_gso(skb))
		return features;
	if (skb_shinfo(skb)->gso_type & SKB_GSO_TCPV4)
		size = ip_hdrlen(skb);
	if (skb->ip_summed != CHECKSUM_PARTIAL || skb_vlan_tag_present(skb) ||
	    skb_network_offset(skb) != ETH_HLEN ||
	    skb_network_header_len(skb) != size)
		features &= ~NETIF_F_GSO_MASK;
	return features;
}

static struct vhs_rx_stats vhs_rx_stats(struct vhs_rxq *rxq)
{
	struct vhs_rx_stats stats;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&rxq->syncp);
		stats = rxq->stats;
	} while (u64_stats_fetch_retry(&rxq->syncp, start));
	stats.ring_full = atomic64_read(&rxq->ring_full);
	return stats;
}

static struct vhs_tx_stats vhs_tx_stats(struct vhs_txq *txq)
{
	struct vhs_tx_stats stats;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&txq->syncp);
		stats = txq->stats;
	} while (u64_stats_fetch_retry(&txq->syncp, start));
	return stats;
}

/* Statistics consist of nothing but numbers. */
static void vhs_add(void *sum, const void *one, size_t size)
{
	const u64 *from = one;
	u64 *to = sum;
	size_t i;

	for (i = 0; i < size / sizeof(u64); i++)
		to[i] += from[i];
}

struct vhs_rx_stats vhs_rx_sum(struct vhs_port *port, unsigned int first)
{
	struct vhs_rx_stats sum = {};
	unsigned int i;

	for (i = first; i < port->dev->num_rx_queues; i++) {
		struct vhs_rx_stats one = vhs_rx_stats(&port->rxq[i]);

		vhs_add(&sum, &one, sizeof(sum));
	}
	return sum;
}

static struct vhs_tx_stats vhs_tx_sum(struct vhs_port *port, unsigned int first)
{
	struct vhs_tx_stats sum = {};
	unsigned int i;

	for (i = first; i < port->dev->num_tx_queues; i++) {
		struct vhs_tx_stats one = vhs_tx_stats(&port->txq[i]);

		vhs_add(&sum, &one, sizeof(sum));
	}
	return sum;
}

static void vhs_get_stats64(struct net_device *dev,
			    struct rtnl_link_stats64 *stats)
{
	struct vhs_port *port = netdev_priv(dev);
	struct vhs_rx_stats rx = vhs_rx_sum(port, 0);
	struct vhs_tx_stats tx = vhs_tx_sum(port, 0);

	stats->rx_packets = rx.packets;
	stats->rx_bytes = rx.bytes;
	stats->rx_dropped = rx.alloc_fail;
	stats->rx_missed_errors = rx.ring_full;
	stats->rx_errors = rx.csum_drops;
	stats->tx_packets = tx.packets;
	stats->tx_bytes = tx.bytes;
	stats->tx_dropped = tx.drops;
}

static void vhs_tell_rx(struct netdev_queue_stats_rx *stats,
			struct vhs_rx_stats rx)
{
	stats->packets = rx.packets;
	stats->bytes = rx.bytes;
	stats->alloc_fail = rx.alloc_fail;
	stats->hw_drop_overruns = rx.ring_full;
	stats->hw_drops = rx.ring_full + rx.csum_drops + rx.alloc_fail;
	stats->csum_unnecessary = rx.csum_unnecessary;
#ifdef VHS_HAVE_CSUM_COMPLETE
	stats->csum_complete = rx.csum_complete;
#endif
	stats->hw_gro_packets = rx.gro_packets;
	stats->hw_gro_bytes = rx.gro_bytes;
	stats->hw_gro_wire_packets = rx.gro_wire_packets;
}

static void vhs_tell_tx(struct netdev_queue_stats_tx *stats,
			struct vhs_tx_stats tx)
{
	stats->packets = tx.packets;
	stats->bytes = tx.bytes;
	stats->hw_drops = tx.drops;
	stats->needs_csum = tx.needs_csum;
	stats->hw_gso_packets = tx.gso_packets;
	stats->hw_gso_bytes = tx.gso_bytes;
	stats->hw_gso_wire_packets = tx.gso_wire_packets;
}

static void vhs_queue_stats_rx(struct net_device *dev, int idx,
			       struct netdev_queue_stats_rx *stats)
{
	struct vhs_port *port = netdev_priv(dev);

	vhs_tell_rx(stats, vhs_rx_stats(&port->rxq[idx]));
}

static void vhs_queue_stats_tx(struct net_device *dev, int idx,
			       struct netdev_queue_stats_tx *stats)
{
	struct vhs_port *port = netdev_priv(dev);

	vhs_tell_tx(stats, vhs_tx_stats(&port->txq[idx]));
}

/* Queues that are not in use now, and what came to no queue. */
static void vhs_base_stats(struct net_device *dev,
			   struct netdev_queue_stats_rx *rx,
			   struct netdev_queue_stats_tx *tx)
{
	struct vhs_port *port = netdev_priv(dev);

	vhs_tell_rx(rx, vhs_rx_sum(port, dev->real_num_rx_queues));
	rx->hw_drops += atomic64_read(&port->filtered);
	vhs_tell_tx(tx, vhs_tx_sum(port, dev->real_num_tx_queues));
}

const struct netdev_stat_ops vhs_stat_ops = {
	.get_queue_stats_rx	= vhs_queue_stats_rx,
	.get_queue_stats_tx	= vhs_queue_stats_tx,
	.get_base_stats		= vhs_base_stats,
};

static int vhs_set_features(struct net_device *dev, netdev_features_t features)
{
	struct vhs_port *port = netdev_priv(dev);

	if (((dev->features ^ features) & NETIF_F_NTUPLE) &&
	    READ_ONCE(port->inject.refuse_ntuple))
		return -EBUSY;
	return 0;
}

const struct net_device_ops vhs_netdev_ops = {
	.ndo_open		= vhs_open,
	.ndo_stop		= vhs_stop,
	.ndo_start_xmit		= vhs_xmit,
	.ndo_features_check	= vhs_features_check,
	.ndo_set_features	= vhs_set_features,
	.ndo_get_stats64	= vhs_get_stats64,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_validate_addr	= eth_validate_addr,
};

void vhs_setup(struct vhs_port *port)
{
	struct net_device *dev = port->dev;
	unsigned int i;

	for (i = 0; i < dev->num_rx_queues; i++) {
		port->rxq[i].port = port;
		port->rxq[i].index = i;
		u64_stats_init(&port->rxq[i].syncp);
		u64_stats_init(&port->txq[i].syncp);
	}
	port->ring_size = VHS_RING_DEFAULT;
	port->hds_config = ETHTOOL_TCP_DATA_SPLIT_DISABLED;
	vhs_steer_init(port);

	/* Both ends are locked at once when a pair goes. */
	netdev_lockdep_set_classes(dev);
	eth_hw_addr_random(dev);
	dev->netdev_ops = &vhs_netdev_ops;
	dev->stat_ops = &vhs_stat_ops;
	dev->queue_mgmt_ops = &vhs_queue_mgmt_ops;
	dev->ethtool_ops = &vhs_ethtool_ops;
	dev->min_mtu = ETH_MIN_MTU;
	dev->max_mtu = ETH_MAX_MTU - ETH_HLEN;
	dev->hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM |
			   NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN |
			   NETIF_F_RXHASH | NETIF_F_NTUPLE | NETIF_F_GRO_HW;
	dev->features = dev->hw_features | NETIF_F_HIGHDMA;
	/* A packet in a ring is the receiver's alone (pktgen's clone_skb). */
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->vlan_features = dev->hw_features & ~NETIF_F_NTUPLE;
#ifdef VHS_HAVE_NETMEM_TX
	dev->netmem_tx = NETMEM_TX_DMA;
#endif
}
