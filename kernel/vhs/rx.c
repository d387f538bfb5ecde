// SPDX-License-Identifier: GPL-2.0
/* Reception: from the ring, through the header splitter, to the stack. */

#include <linux/etherdevice.h>
#include <net/checksum.h>
#include <net/ip6_checksum.h>
#include <net/tcp.h>

#include "vhs.h"

#define VHS_HEAD_MAX	192	/* of a packet that is not split */
#define VHS_HELD_US	10000	/* until a packet that nothing overtakes arrives */
#define VHS_LATE	64	/* payload that a late split leaves with the headers */

/* A packet on its way from the ring to the stack. */
struct vhs_rx {
	struct sk_buff *src;
	struct vhs_source source;
	struct sk_buff *skb;
	u32 skip;		/* bytes of its payload that are others' */
	u32 len;		/* its length: headers, and its own payload */
	bool whole;		/* not split, by an injected fault */
	bool sum;
	__wsum csum;		/* of what follows the first bytes */
	u32 summed;
	u32 unreadable;
	u32 moved;		/* by the DMA engine */
};

static bool vhs_rx_cut(const struct vhs_rx *rx)
{
	return rx->skip || rx->len < rx->src->len;
}

static bool vhs_rx_copy(struct vhs_rx *rx, void *to, u32 len)
{
	if (!vhs_dma_copy(&rx->source, to, len))
		return false;
	rx->moved += len;
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

/* The end of the checksum that the sender has left to its device, or 0. */
static u32 vhs_csum_end(const struct sk_buff *src)
{
	if (src->ip_summed != CHECKSUM_PARTIAL)
		return 0;
	return skb_checksum_start_offset(src) + src->csum_offset +
	       sizeof(__sum16);
}

/* Where the linear part ends; all of it if the packet isn't split. */
static u32 vhs_split_point(struct vhs_rxq *rxq, const struct vhs_rx *rx)
{
	struct vhs_port *port = rxq->port;
	u32 head = vhs_cb(rx->src)->hdr_len;

	if (READ_ONCE(port->hds_config) != ETHTOOL_TCP_DATA_SPLIT_ENABLED ||
	    !head || head == rx->len || head < vhs_csum_end(rx->src) ||
	    rx->len <= READ_ONCE(port->hds_thresh) || rx->whole)
		return rx->len;
	if (vhs_hit(&port->inject.split_late, vhs_cb(rx->src)->number))
		head = min(head + VHS_LATE, rx->len);
	return head;
}

/* The first bytes, with all headers. */
static bool vhs_rx_linear(struct vhs_rx *rx, u32 linear)
{
	u32 headers = vhs_cb(rx->src)->hdr_len;
	u8 *to = skb_put(rx->skb, linear);

	rx->moved = linear;
	return vhs_dma_copy(&rx->source, to, headers) &&
	       vhs_dma_copy(&rx->source, NULL, rx->skip) &&
	       vhs_dma_copy(&rx->source, to + headers, linear - headers);
}

/* The headers are the aggregate's: makes them the segment's. */
static void vhs_rx_headers(struct vhs_rx *rx)
{
	u32 mss = skb_shinfo(rx->src)->gso_size;
	u32 start = vhs_cb(rx->src)->transport, size = rx->len - start;
	u8 *network = rx->skb->data + ETH_HLEN;
	struct tcphdr *tcp = (struct tcphdr *)(rx->skb->data + start);

	if (skb_shinfo(rx->src)->gso_type & SKB_GSO_TCPV4) {
		struct iphdr *ip = (struct iphdr *)network;

		ip->tot_len = htons(rx->len - ETH_HLEN);
		ip->id = htons(ntohs(ip->id) + rx->skip / mss);
		ip_send_check(ip);
		tcp->check = ~tcp_v4_check(size, ip->saddr, ip->daddr, 0);
	} else {
		struct ipv6hdr *ip = (struct ipv6hdr *)network;

		ip->payload_len = htons(size);
		tcp->check = ~tcp_v6_check(size, &ip->saddr, &ip->daddr, 0);
	}
	tcp->seq = htonl(ntohl(tcp->seq) + rx->skip);
	if (rx->skip)
		tcp->cwr = 0;
	if (rx->skip + rx->len < rx->src->len) {
		tcp->fin = 0;
		tcp->psh = 0;
	}
}

/* The sum of all from @start on, which is in the linear part. */
static __wsum vhs_rx_sum_from(const struct vhs_rx *rx, u32 linear, u32 start)
{
	return csum_block_add(csum_partial(rx->skb->data + start,
					   linear - start, 0),
			      rx->csum, linear - start);
}

/* What the sender has left to its device. */
static void vhs_rx_fill_csum(struct vhs_rx *rx, u32 linear)
{
	u32 start = skb_checksum_start_offset(rx->src);

	*(__sum16 *)(rx->skb->data + start + rx->src->csum_offset) =
		csum_fold(vhs_rx_sum_from(rx, linear, start)) ?: CSUM_MANGLED_0;
}

/*
 * Is the checksum of a split packet, which is TCP, right? Its lengths are those
 * by which it was steered: the headers may be in memory that a program has
 * written to since (packet(7)'s ring).
 */
static bool vhs_rx_verified(const struct vhs_rx *rx, u32 linear)
{
	u32 start = vhs_cb(rx->src)->transport;
	__wsum sum = vhs_rx_sum_from(rx, linear, start);
	u8 *network = rx->skb->data + ETH_HLEN;

	if (((struct ethhdr *)rx->skb->data)->h_proto == htons(ETH_P_IP)) {
		struct iphdr *ip = (struct iphdr *)network;

		return !tcp_v4_check(rx->len - start, ip->saddr, ip->daddr,
				     sum);
	} else {
		struct ipv6hdr *ip = (struct ipv6hdr *)network;

		return !tcp_v6_check(rx->len - start, &ip->saddr, &ip->daddr,
				     sum);
	}
}

/* False if the packet is not to be delivered. */
static bool vhs_rx_csum(struct vhs_rxq *rxq, struct vhs_rx *rx, u32 linear)
{
	bool partial = rx->src->ip_summed == CHECKSUM_PARTIAL;
	struct sk_buff *skb = rx->skb;

	if (!rx->sum) {
		/* An aggregate; its segments had the right ones. */
		skb->ip_summed = CHECKSUM_PARTIAL;
		skb->csum_start = skb_headroom(skb) +
				  skb_checksum_start_offset(rx->src);
		skb->csum_offset = rx->src->csum_offset;
		/* A bridge sends it on before anybody has looked into it. */
		skb->transport_header = skb->csum_start;
		return true;
	}
	if (partial)
		vhs_rx_fill_csum(rx, linear);
	/* Nobody else could verify what is in device memory. */
	else if (rx->unreadable && !vhs_rx_verified(rx, linear))
		return false;
	if (rx->unreadable) {
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	} else if (rxq->port->dev->features & NETIF_F_RXCSUM) {
		if (partial) {
			skb->ip_summed = CHECKSUM_UNNECESSARY;
		} else {
			skb->ip_summed = CHECKSUM_COMPLETE;
			skb->csum = vhs_rx_sum_from(rx, linear, ETH_HLEN);
		}
	}
	return true;
}

static void vhs_rx_offloads(struct vhs_rxq *rxq, struct vhs_rx *rx)
{
	struct skb_shared_info *from = skb_shinfo(rx->src);
	struct net_device *dev = rxq->port->dev;
	struct vhs_cb *cb = vhs_cb(rx->src);
	struct sk_buff *skb = rx->skb;

	if (skb_is_gso(rx->src) && !vhs_rx_cut(rx)) {
		skb_shinfo(skb)->gso_size = from->gso_size;
		skb_shinfo(skb)->gso_segs = from->gso_segs;
		skb_shinfo(skb)->gso_type = from->gso_type &
			(SKB_GSO_TCPV4 | SKB_GSO_TCPV6 | SKB_GSO_TCP_ECN);
	}
	if (cb->hash && dev->features & NETIF_F_RXHASH)
		skb_set_hash(skb, cb->hash, cb->l4_hash ? PKT_HASH_TYPE_L4 :
							  PKT_HASH_TYPE_L3);
	skb_record_rx_queue(skb, rxq->index);
	if (!rx->whole)
		skb_mark_for_recycle(skb);
	skb->protocol = eth_type_trans(skb, dev);
}

static void vhs_rx_count(struct vhs_rxq *rxq, struct vhs_rx *rx, u32 head)
{
	struct vhs_rx_stats *stats = &rxq->stats;

	u64_stats_update_begin(&rxq->syncp);
	stats->packets++;
	stats->bytes += rx->len;
	stats->split_bytes += rx->len - head;
	stats->linear_bytes += head;
	stats->unreadable_bytes += rx->unreadable;
	stats->dma_bytes += rx->moved;
	if (skb_is_gso(rx->skb)) {
		stats->gro_packets++;
		stats->gro_bytes += rx->len;
		stats->gro_wire_packets += skb_shinfo(rx->skb)->gso_segs;
	}
	if (rx->skb->ip_summed == CHECKSUM_COMPLETE)
		stats->csum_complete++;
	else if (rx->skb->ip_summed == CHECKSUM_UNNECESSARY)
		stats->csum_unnecessary++;
	u64_stats_update_end(&rxq->syncp);
}

/*
 * An skb with room for @linear bytes, the last @payload of which are payload
 * with more behind it. Such a head must not be of a page's fragment:
 * skb_try_coalesce() would put it among fragments of device memory, where
 * TCP ends the stream with ENODEV when it meets it. netdev_alloc_skb() has
 * small ones from kmalloc(), which are not merged.
 */
static struct sk_buff *vhs_alloc_head(struct vhs_rxq *rxq, u32 linear,
				      u32 payload)
{
	if (payload)
		return netdev_alloc_skb(rxq->port->dev, linear);
	return napi_alloc_skb(&rxq->napi, linear);
}

/*
 * @len bytes, after @skip, of the payload; all of it but for a segment.
 *
 * GRO does not ask whether fragments can be read: it would put a packet that
 * was not split among those in device memory, or theirs into it. It does not
 * merge memory of pools with other memory. So such a packet has none of theirs.
 */
static void vhs_receive(struct vhs_rxq *rxq, struct sk_buff *src, u32 skip,
			u32 len)
{
	struct vhs_rx rx = {
		.src = src,
		.skip = skip,
		.len = vhs_cb(src)->hdr_len + len,
		.whole = vhs_hit(&rxq->port->inject.split_fail,
				 vhs_cb(src)->number),
	};
	u64 *lost = &rxq->stats.alloc_fail;
	u32 head = vhs_split_point(rxq, &rx);
	u32 linear = head;

	if (head == rx.len && !rx.whole)
		linear = min(head, max_t(u32, VHS_HEAD_MAX, vhs_csum_end(src)));
	rx.sum = !skb_is_gso(src) || vhs_rx_cut(&rx);
	vhs_source_init(&rx.source, src);
	if (vhs_hit(&rxq->port->inject.alloc_fail, vhs_cb(src)->number))
		goto err_count;
	rx.skb = vhs_alloc_head(rxq, linear,
				head < rx.len ? head - vhs_cb(src)->hdr_len : 0);
	if (!rx.skb)
		goto err_count;
	if (!vhs_rx_linear(&rx, linear) ||
	    !vhs_rx_frags(&rx, rxq->host, PAGE_SIZE, head - linear) ||
	    !vhs_rx_frags(&rx, rxq->mem.payload, rxq->mem.buf_size,
			  rx.len - head))
		goto err_free;

	if (vhs_rx_cut(&rx))
		vhs_rx_headers(&rx);
	if (!vhs_rx_csum(rxq, &rx, linear)) {
		lost = &rxq->stats.csum_drops;
		goto err_free;
	}
	vhs_rx_offloads(rxq, &rx);
	vhs_rx_count(rxq, &rx, head);
	napi_gro_receive(&rxq->napi, rx.skb);
	return;

err_free:
	/* Fragments go back to their pool. */
	skb_mark_for_recycle(rx.skb);
	kfree_skb(rx.skb);
err_count:
	u64_stats_update_begin(&rxq->syncp);
	rxq->stats.dma_bytes += rx.moved;
	(*lost)++;
	u64_stats_update_end(&rxq->syncp);
}

/* As segments, if the port does not take aggregates. */
static void vhs_deliver(struct vhs_rxq *rxq, struct sk_buff *src)
{
	u32 len = src->len - vhs_cb(src)->hdr_len, mss, skip;

	if (!skb_is_gso(src) || !vhs_cb(src)->hdr_len ||
	    rxq->port->dev->features & NETIF_F_GRO_HW) {
		vhs_receive(rxq, src, 0, len);
		return;
	}
	mss = skb_shinfo(src)->gso_size;
	for (skip = 0; skip < len; skip += mss)
		vhs_receive(rxq, src, skip, min(mss, len - skip));
}

static void vhs_arrive(struct vhs_rxq *rxq, struct sk_buff *src, int budget)
{
	struct vhs_inject *inject = &rxq->port->inject;

	if (!vhs_hit(&inject->loss, vhs_cb(src)->number)) {
		vhs_deliver(rxq, src);
		if (vhs_hit(&inject->duplicate, vhs_cb(src)->number))
			vhs_deliver(rxq, src);
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

/* One that nothing overtakes is not kept for ever. If the next packet is
 * still on the wire, vhs_next() has set the timer for that.
 */
static void vhs_release_late(struct vhs_rxq *rxq, int budget)
{
	ktime_t latest;

	if (!rxq->held || __ptr_ring_peek(&rxq->ring))
		return;
	latest = vhs_cb(rxq->held)->arrives;
	if (ktime_after(latest, ktime_get()))
		hrtimer_start(&rxq->timer, latest, HRTIMER_MODE_ABS);
	else
		vhs_release(rxq, budget);
}

/* The next packet; NULL if it is still on the wire, or there is none. Nobody
 * else consumes.
 */
static struct sk_buff *vhs_next(struct vhs_rxq *rxq)
{
	struct sk_buff *skb = __ptr_ring_peek(&rxq->ring);
	ktime_t arrives;

	if (!skb)
		return NULL;
	arrives = vhs_cb(skb)->arrives;
	if (unlikely(arrives) && ktime_after(arrives, ktime_get())) {
		hrtimer_start(&rxq->timer, arrives, HRTIMER_MODE_ABS);
		return NULL;
	}
	return __ptr_ring_consume(&rxq->ring);
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
		struct sk_buff *src = vhs_next(rxq);

		if (!src)
			break;
		done++;
		vhs_cb(src)->number = ++rxq->seen;
		if (!rxq->held && vhs_hit(&inject->reorder, rxq->seen)) {
			vhs_cb(src)->arrives =
				ktime_add_us(ktime_get(), VHS_HELD_US);
			rxq->held = src;
			continue;
		}
		vhs_arrive(rxq, src, budget);
		vhs_release(rxq, budget);
	}
	if (done < budget) {
		vhs_release_late(rxq, budget);
		napi_complete_done(napi, done);
	}
	return done;
}
