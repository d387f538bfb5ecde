/* SPDX-License-Identifier: GPL-2.0 */
#ifndef VHS_H
#define VHS_H

#include <linux/netdevice.h>
#include <linux/ethtool.h>
#include <linux/hrtimer.h>
#include <linux/ptr_ring.h>
#include <linux/skbuff.h>
#include <linux/u64_stats_sync.h>
#include <net/page_pool/helpers.h>

#include "../compat.h"

#define VHS_RING_DEFAULT	1024
#define VHS_RING_MIN		16
#define VHS_RING_MAX		8192
#define VHS_QUEUES_MAX		128
#define VHS_INDIR_SIZE		128
#define VHS_KEY_SIZE		40
#define VHS_RULES		128
#define VHS_CONTEXTS		64	/* of RSS, the default one among them */
#define VHS_HDS_THRESH_MAX	1024

/* Nothing but numbers of 64 bits in these two. */
struct vhs_rx_stats {
	u64 packets;
	u64 bytes;
	u64 split_bytes;	/* payload apart from its headers */
	u64 linear_bytes;	/* all else */
	u64 unreadable_bytes;	/* the part of split_bytes in device memory */
	u64 dma_bytes;
	u64 alloc_fail;
	u64 csum_drops;
	u64 gro_packets;
	u64 gro_bytes;
	u64 gro_wire_packets;
	u64 csum_unnecessary;
	u64 csum_complete;
	u64 ring_full;	/* counted by senders, in the queue's atomic */
};

struct vhs_tx_stats {
	u64 packets;
	u64 bytes;
	u64 gso_packets;
	u64 gso_bytes;
	u64 gso_wire_packets;
	u64 needs_csum;
	u64 drops;
};

/* What a restart of the queue replaces. */
struct vhs_rx_mem {
	struct page_pool *payload;
	u32 buf_size;
};

struct vhs_rxq {
	struct vhs_port *port;
	unsigned int index;
	struct napi_struct napi;
	struct ptr_ring ring;
	struct hrtimer timer;	/* for a packet that is still on the wire */
	struct page_pool *host;	/* for what is not split */
	struct vhs_rx_mem mem;
	struct sk_buff *held;	/* to be overtaken by the next packet */
	u32 seen;
	struct vhs_rx_stats stats;
	struct u64_stats_sync syncp;
	atomic64_t ring_full;
};

struct vhs_txq {
	struct vhs_tx_stats stats;
	struct u64_stats_sync syncp;
};

/* Unless it says more, one packet in so many is hit; never if zero. */
struct vhs_inject {
	u32 loss;
	u32 reorder;
	u32 duplicate;
	u32 split_fail;
	u32 split_late;
	u32 alloc_fail;
	u32 stop_queues;	/* bit mask */
	u32 delay;	/* of all packets, in microseconds */
	bool refuse_off;	/* header split cannot be switched off, as bnxt's */
	bool refuse_ntuple;	/* nor steering on or off */
};

struct vhs_rule {
	struct rcu_head rcu;
	struct ethtool_rx_flow_spec spec;
	u32 context;
};

/* The key is common to all contexts. */
struct vhs_rss {
	u8 key[VHS_KEY_SIZE];
	u32 indir[VHS_CONTEXTS][VHS_INDIR_SIZE];
	DECLARE_BITMAP(contexts, VHS_CONTEXTS);
};

struct vhs_port {
	struct net_device *dev;
	struct vhs_port *peer;
	struct vhs_rxq *rxq;
	struct vhs_txq *txq;
	bool running;
	u32 ring_size;
	u32 hds_thresh;
	u8 hds_config;
	struct vhs_rss rss;
	u32 fields[IPV6_USER_FLOW + 1];
	struct vhs_rule __rcu *rules[VHS_RULES];
	struct vhs_inject inject;
	struct dentry *debugfs;
	atomic64_t filtered;	/* by rules; counted by senders */
};

/* What the wire side learns of a packet, for the receiving side. */
struct vhs_cb {
	ktime_t arrives;	/* 0: at once; of one that is held, at the latest */
	u32 hash;
	u32 number;	/* of its queue, as it arrived */
	u16 transport;	/* where TCP begins */
	u16 hdr_len;	/* Ethernet to TCP, 0 if this is not TCP */
	bool l4_hash;
};

static inline struct vhs_cb *vhs_cb(struct sk_buff *skb)
{
	BUILD_BUG_ON(sizeof(struct vhs_cb) > sizeof(skb->cb));
	return (struct vhs_cb *)skb->cb;
}

/* Does the packet with this number suffer an injected fault? */
static inline bool vhs_hit(const u32 *every, u32 number)
{
	u32 n = READ_ONCE(*every);

	return unlikely(n) && number % n == 0;
}

/* netdev.c */
extern const struct net_device_ops vhs_netdev_ops;
extern const struct netdev_stat_ops vhs_stat_ops;
int vhs_open(struct net_device *dev);
int vhs_stop(struct net_device *dev);
void vhs_setup(struct vhs_port *port);
struct vhs_rx_stats vhs_rx_sum(struct vhs_port *port, unsigned int first);

/* queue.c */
extern const struct netdev_queue_mgmt_ops vhs_queue_mgmt_ops;
int vhs_rxq_open(struct vhs_rxq *rxq);
void vhs_rxq_enable(struct vhs_rxq *rxq);
void vhs_rxq_disable(struct vhs_rxq *rxq);
void vhs_rxq_close(struct vhs_rxq *rxq);
void vhs_rxq_kick(struct vhs_rxq *rxq);

/* rx.c */
int vhs_poll(struct napi_struct *napi, int budget);

/* dma.c */
struct vhs_source {
	struct sk_buff *skb;
	int frag;	/* -1: the linear part */
	u32 offset;
};

void vhs_source_init(struct vhs_source *source, struct sk_buff *skb);
bool vhs_dma_copy(struct vhs_source *source, void *to, u32 len);
void *vhs_netmem_va(netmem_ref netmem);

/* steer.c */
#define VHS_DROP	UINT_MAX
unsigned int vhs_steer(struct vhs_port *port, struct sk_buff *skb);
bool vhs_context_used(struct vhs_port *port, u32 context);
void vhs_steer_init(struct vhs_port *port);
void vhs_steer_exit(struct vhs_port *port);
int vhs_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *nfc, u32 *locs);
int vhs_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *nfc);
int vhs_get_fields(struct net_device *dev, struct ethtool_rxfh_fields *nfc);
int vhs_set_fields(struct net_device *dev, const struct ethtool_rxfh_fields *nfc,
		   struct netlink_ext_ack *extack);

/* ethtool.c */
extern const struct ethtool_ops vhs_ethtool_ops;

/* debugfs.c */
void vhs_debugfs_add(struct vhs_port *port);
void vhs_debugfs_del(struct vhs_port *port);
void vhs_debugfs_init(void);
void vhs_debugfs_exit(void);

#endif
