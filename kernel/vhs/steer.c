// SPDX-License-Identifier: GPL-2.0
/* Which queue a packet arrives at: rules first, then the Toeplitz hash. */

#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/ip.h>

#include "vhs.h"

#define VHS_L3		(RXH_IP_SRC | RXH_IP_DST)
#define VHS_L4		(RXH_L4_B_0_1 | RXH_L4_B_2_3)

/* The addresses and ports of a packet; IPv4 uses the first words. */
struct vhs_flow {
	u32 type;	/* as in ethtool, 0: not IP */
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
};

static void vhs_parse_l4(struct sk_buff *skb, u8 protocol, u32 offset, bool v6,
			 struct vhs_flow *flow)
{
	union {
		struct tcphdr tcp;
		struct udphdr udp;
	} buf;

	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp;

		tcp = skb_header_pointer(skb, offset, sizeof(*tcp), &buf);
		if (!tcp || tcp->doff < 5 ||
		    offset + tcp->doff * 4 > skb->len)
			return;
		flow->type = v6 ? TCP_V6_FLOW : TCP_V4_FLOW;
		flow->sport = tcp->source;
		flow->dport = tcp->dest;
		vhs_cb(skb)->transport = offset;
		vhs_cb(skb)->hdr_len = offset + tcp->doff * 4;
	} else if (protocol == IPPROTO_UDP) {
		struct udphdr *udp;

		udp = skb_header_pointer(skb, offset, sizeof(*udp), &buf);
		if (!udp)
			return;
		flow->type = v6 ? UDP_V6_FLOW : UDP_V4_FLOW;
		flow->sport = udp->source;
		flow->dport = udp->dest;
	}
}

static void vhs_parse(struct sk_buff *skb, struct vhs_flow *flow)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} buf;

	u32 end = 0;

	memset(flow, 0, sizeof(*flow));
	if (skb_headlen(skb) < ETH_HLEN)
		return;
	switch (((struct ethhdr *)skb->data)->h_proto) {
	case htons(ETH_P_IP): {
		struct iphdr *ip = skb_header_pointer(skb, ETH_HLEN,
						      sizeof(*ip), &buf);

		if (!ip || ip->ihl < 5)
			return;
		end = ETH_HLEN + ntohs(ip->tot_len);
		flow->type = IPV4_USER_FLOW;
		flow->src[0] = ip->saddr;
		flow->dst[0] = ip->daddr;
		if (!(ip->frag_off & htons(IP_MF | IP_OFFSET)))
			vhs_parse_l4(skb, ip->protocol,
				     ETH_HLEN + ip->ihl * 4, false, flow);
		break;
	}
	case htons(ETH_P_IPV6): {
		struct ipv6hdr *ip = skb_header_pointer(skb, ETH_HLEN,
							sizeof(*ip), &buf);

		if (!ip)
			return;
		end = ETH_HLEN + sizeof(*ip) + ntohs(ip->payload_len);
		flow->type = IPV6_USER_FLOW;
		memcpy(flow->src, &ip->saddr, sizeof(flow->src));
		memcpy(flow->dst, &ip->daddr, sizeof(flow->dst));
		/* As simple NICs do: no extension headers. */
		vhs_parse_l4(skb, ip->nexthdr, ETH_HLEN + sizeof(*ip), true,
			     flow);
		break;
	}
	}
	/* What pads a short frame is no payload. */
	if (!skb_is_gso(skb) && skb->len != end)
		vhs_cb(skb)->hdr_len = 0;
}

static u32 vhs_toeplitz(const u8 *key, const u8 *data, unsigned int len)
{
	u32 window = get_unaligned_be32(key), hash = 0;
	unsigned int i, bit;

	for (i = 0; i < len; i++) {
		u8 next = key[(i + 4) % VHS_KEY_SIZE];

		for (bit = 0; bit < 8; bit++) {
			if (data[i] & (0x80 >> bit))
				hash ^= window;
			window = window << 1 | ((next >> (7 - bit)) & 1);
		}
	}
	return hash;
}

static u32 vhs_hash(struct vhs_port *port, struct sk_buff *skb,
		    const struct vhs_flow *flow)
{
	bool v4 = flow->type == TCP_V4_FLOW || flow->type == UDP_V4_FLOW ||
		  flow->type == IPV4_USER_FLOW;
	u32 fields = READ_ONCE(port->fields[flow->type]);
	unsigned int size = v4 ? 4 : 16, n = 0;
	u8 data[36];

	if (fields & RXH_IP_SRC) {
		memcpy(data + n, flow->src, size);
		n += size;
	}
	if (fields & RXH_IP_DST) {
		memcpy(data + n, flow->dst, size);
		n += size;
	}
	if (fields & RXH_L4_B_0_1) {
		memcpy(data + n, &flow->sport, 2);
		n += 2;
	}
	if (fields & RXH_L4_B_2_3) {
		memcpy(data + n, &flow->dport, 2);
		n += 2;
	}
	vhs_cb(skb)->l4_hash = fields & VHS_L4;
	return vhs_toeplitz(port->rss.key, data, n);
}

static bool vhs_match(const __be32 *value, const __be32 *rule,
		      const __be32 *mask, unsigned int words)
{
	while (words--)
		if ((value[words] ^ rule[words]) & mask[words])
			return false;
	return true;
}

static bool vhs_rule_matches(const struct ethtool_rx_flow_spec *spec,
			     const struct vhs_flow *flow)
{
	const union ethtool_flow_union *h = &spec->h_u, *m = &spec->m_u;

	if ((spec->flow_type & ~FLOW_RSS) != flow->type)
		return false;
	/* TCP and UDP specifications have the same form. */
	if (flow->type == TCP_V4_FLOW || flow->type == UDP_V4_FLOW)
		return vhs_match(flow->src, &h->tcp_ip4_spec.ip4src,
				 &m->tcp_ip4_spec.ip4src, 1) &&
		       vhs_match(flow->dst, &h->tcp_ip4_spec.ip4dst,
				 &m->tcp_ip4_spec.ip4dst, 1) &&
		       !((flow->sport ^ h->tcp_ip4_spec.psrc) &
			 m->tcp_ip4_spec.psrc) &&
		       !((flow->dport ^ h->tcp_ip4_spec.pdst) &
			 m->tcp_ip4_spec.pdst);
	return vhs_match(flow->src, h->tcp_ip6_spec.ip6src,
			 m->tcp_ip6_spec.ip6src, 4) &&
	       vhs_match(flow->dst, h->tcp_ip6_spec.ip6dst,
			 m->tcp_ip6_spec.ip6dst, 4) &&
	       !((flow->sport ^ h->tcp_ip6_spec.psrc) &
		 m->tcp_ip6_spec.psrc) &&
	       !((flow->dport ^ h->tcp_ip6_spec.pdst) &
		 m->tcp_ip6_spec.pdst);
}

static u32 vhs_indir(struct vhs_port *port, u32 context, u32 hash)
{
	return READ_ONCE(port->rss.indir[context][hash % VHS_INDIR_SIZE]);
}

/* The queue of @port that the packet goes to. Called under RCU. */
unsigned int vhs_steer(struct vhs_port *port, struct sk_buff *skb)
{
	unsigned int queue, i;
	struct vhs_flow flow;
	struct vhs_cb *cb = vhs_cb(skb);

	memset(cb, 0, sizeof(*cb));
	vhs_parse(skb, &flow);
	if (!flow.type)
		return 0;
	cb->hash = vhs_hash(port, skb, &flow);
	queue = vhs_indir(port, 0, cb->hash);

	if (!(READ_ONCE(port->dev->features) & NETIF_F_NTUPLE))
		goto out;
	for (i = 0; i < VHS_RULES; i++) {
		struct vhs_rule *rule = rcu_dereference_bh(port->rules[i]);

		if (!rule || !vhs_rule_matches(&rule->spec, &flow))
			continue;
		if (rule->spec.ring_cookie == RX_CLS_FLOW_DISC)
			return VHS_DROP;
		if (rule->spec.flow_type & FLOW_RSS)
			queue = vhs_indir(port, rule->context, cb->hash);
		else
			queue = rule->spec.ring_cookie;
		break;
	}
out:
	/* The channels may have become fewer since the rule was made. */
	return queue < port->dev->real_num_rx_queues ? queue : 0;
}

static int vhs_rule_check(struct vhs_port *port,
			  const struct ethtool_rxnfc *nfc)
{
	const struct ethtool_rx_flow_spec *spec = &nfc->fs;
	const union ethtool_flow_union *m = &spec->m_u;

	switch (spec->flow_type & ~FLOW_RSS) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
		if (m->tcp_ip4_spec.tos)
			return -EOPNOTSUPP;
		break;
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
		if (m->tcp_ip6_spec.tclass)
			return -EOPNOTSUPP;
		break;
	default:
		return -EOPNOTSUPP;
	}
	/* A context's table alone decides. 6.12 looks for no context. */
	if (spec->flow_type & FLOW_RSS) {
		if (spec->ring_cookie || nfc->rss_context >= VHS_CONTEXTS ||
		    !test_bit(nfc->rss_context, port->rss.contexts))
			return -EINVAL;
		return 0;
	}
	if (spec->ring_cookie != RX_CLS_FLOW_DISC &&
	    spec->ring_cookie >= port->dev->real_num_rx_queues)
		return -EINVAL;
	return 0;
}

static int vhs_rule_place(struct vhs_port *port, u32 location)
{
	unsigned int i;

	if (!(location & RX_CLS_LOC_SPECIAL))
		return location < VHS_RULES ? location : -EINVAL;
	if (location != RX_CLS_LOC_ANY)
		return -EOPNOTSUPP;
	for (i = 0; i < VHS_RULES; i++)
		if (!rcu_access_pointer(port->rules[i]))
			return i;
	return -ENOSPC;
}

/* Rules change under the lock of ethtool's callbacks. */
static void vhs_rule_set(struct vhs_port *port, unsigned int i,
			 struct vhs_rule *rule)
{
	struct vhs_rule *old;

	old = rcu_replace_pointer(port->rules[i], rule, true);
	if (old)
		kfree_rcu(old, rcu);
}

static int vhs_rule_add(struct vhs_port *port, struct ethtool_rxnfc *nfc)
{
	struct ethtool_rx_flow_spec *spec = &nfc->fs;
	struct vhs_rule *rule;
	int place, err;

	err = vhs_rule_check(port, nfc);
	if (err)
		return err;
	place = vhs_rule_place(port, spec->location);
	if (place < 0)
		return place;
	rule = kzalloc_obj(*rule);
	if (!rule)
		return -ENOMEM;
	spec->location = place;
	rule->spec = *spec;
	rule->context = spec->flow_type & FLOW_RSS ? nfc->rss_context : 0;
	vhs_rule_set(port, place, rule);
	return 0;
}

bool vhs_context_used(struct vhs_port *port, u32 context)
{
	struct vhs_rule *rule;
	unsigned int i;

	for (i = 0; i < VHS_RULES; i++) {
		rule = rcu_dereference_protected(port->rules[i], true);
		if (rule && rule->spec.flow_type & FLOW_RSS &&
		    rule->context == context)
			return true;
	}
	return false;
}

int vhs_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *nfc)
{
	struct vhs_port *port = netdev_priv(dev);

	switch (nfc->cmd) {
	case ETHTOOL_SRXCLSRLINS:
		return vhs_rule_add(port, nfc);
	case ETHTOOL_SRXCLSRLDEL:
		if (nfc->fs.location >= VHS_RULES ||
		    !rcu_access_pointer(port->rules[nfc->fs.location]))
			return -ENOENT;
		vhs_rule_set(port, nfc->fs.location, NULL);
		return 0;
#ifndef VHS_HAVE_RXFH_FIELDS
	case ETHTOOL_SRXFH:
		return vhs_set_fields(dev, nfc, NULL);
#endif
	default:
		return -EOPNOTSUPP;
	}
}

static unsigned int vhs_rule_list(struct vhs_port *port, u32 *locs, u32 room)
{
	unsigned int i, n = 0;

	for (i = 0; i < VHS_RULES; i++) {
		if (!rcu_access_pointer(port->rules[i]))
			continue;
		if (locs && n < room)
			locs[n] = i;
		n++;
	}
	return n;
}

int vhs_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *nfc, u32 *locs)
{
	struct vhs_port *port = netdev_priv(dev);
	struct vhs_rule *rule;
	unsigned int n;

	switch (nfc->cmd) {
	case ETHTOOL_GRXRINGS:
		nfc->data = dev->real_num_rx_queues;
		return 0;
	case ETHTOOL_GRXCLSRLCNT:
		nfc->rule_cnt = vhs_rule_list(port, NULL, 0);
		nfc->data = VHS_RULES | RX_CLS_LOC_SPECIAL;
		return 0;
	case ETHTOOL_GRXCLSRLALL:
		n = vhs_rule_list(port, locs, nfc->rule_cnt);
		if (n > nfc->rule_cnt)
			return -EMSGSIZE;
		nfc->rule_cnt = n;
		nfc->data = VHS_RULES;
		return 0;
	case ETHTOOL_GRXCLSRULE:
		if (nfc->fs.location >= VHS_RULES)
			return -EINVAL;
		rule = rcu_dereference_protected(port->rules[nfc->fs.location],
						 true);
		if (!rule)
			return -ENOENT;
		nfc->fs = rule->spec;
		nfc->rss_context = rule->context;
		return 0;
#ifndef VHS_HAVE_RXFH_FIELDS
	case ETHTOOL_GRXFH:
		return vhs_get_fields(dev, nfc);
#endif
	default:
		return -EOPNOTSUPP;
	}
}

static bool vhs_flow_known(u32 type)
{
	switch (type) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
	case IPV4_USER_FLOW:
	case IPV6_USER_FLOW:
		return true;
	default:
		return false;
	}
}

/* ethtool says "IP without ports" by a type of its own. */
static u32 vhs_flow_type(u32 type)
{
	if (type == IPV4_FLOW)
		return IPV4_USER_FLOW;
	if (type == IPV6_FLOW)
		return IPV6_USER_FLOW;
	return type;
}

int vhs_get_fields(struct net_device *dev, struct ethtool_rxfh_fields *nfc)
{
	struct vhs_port *port = netdev_priv(dev);
	u32 type = vhs_flow_type(nfc->flow_type);

	nfc->data = vhs_flow_known(type) ? port->fields[type] : 0;
	return 0;
}

int vhs_set_fields(struct net_device *dev, const struct ethtool_rxfh_fields *nfc,
		   struct netlink_ext_ack *extack)
{
	struct vhs_port *port = netdev_priv(dev);
	u32 type = vhs_flow_type(nfc->flow_type), allowed = VHS_L3;

	if (!vhs_flow_known(type)) {
		NL_SET_ERR_MSG(extack, "flows are of TCP, UDP or IP");
		return -EOPNOTSUPP;
	}
	if (type != IPV4_USER_FLOW && type != IPV6_USER_FLOW)
		allowed |= VHS_L4;
	if (nfc->data & ~allowed) {
		NL_SET_ERR_MSG(extack, "the hash takes addresses and ports only");
		return -EOPNOTSUPP;
	}
	WRITE_ONCE(port->fields[type], nfc->data);
	return 0;
}

void vhs_steer_init(struct vhs_port *port)
{
	unsigned int i;

	__set_bit(0, port->rss.contexts);
	netdev_rss_key_fill(port->rss.key, VHS_KEY_SIZE);
	for (i = 0; i < VHS_INDIR_SIZE; i++)
		port->rss.indir[0][i] =
			ethtool_rxfh_indir_default(i, port->dev->num_rx_queues);
	port->fields[TCP_V4_FLOW] = VHS_L3 | VHS_L4;
	port->fields[UDP_V4_FLOW] = VHS_L3 | VHS_L4;
	port->fields[TCP_V6_FLOW] = VHS_L3 | VHS_L4;
	port->fields[UDP_V6_FLOW] = VHS_L3 | VHS_L4;
	port->fields[IPV4_USER_FLOW] = VHS_L3;
	port->fields[IPV6_USER_FLOW] = VHS_L3;
}

void vhs_steer_exit(struct vhs_port *port)
{
	unsigned int i;

	for (i = 0; i < VHS_RULES; i++)
		vhs_rule_set(port, i, NULL);
}
