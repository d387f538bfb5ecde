// SPDX-License-Identifier: GPL-2.0
/* Rings, channels, indirection table and statistics for ethtool. */

#include "vhs.h"

static const char vhs_stat_names[][ETH_GSTRING_LEN] = {
	"rx_split_bytes",
	"rx_linear_bytes",
	"rx_unreadable_bytes",
	"rx_dma_bytes",
	"rx_alloc_fail",
	"rx_csum_drops",
	"rx_ring_full",
	"rx_filtered",
};

static int vhs_get_sset_count(struct net_device *dev, int set)
{
	return set == ETH_SS_STATS ? ARRAY_SIZE(vhs_stat_names) : -EOPNOTSUPP;
}

static void vhs_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	if (set == ETH_SS_STATS)
		memcpy(data, vhs_stat_names, sizeof(vhs_stat_names));
}

static void vhs_get_ethtool_stats(struct net_device *dev,
				  struct ethtool_stats *unused, u64 *data)
{
	struct vhs_port *port = netdev_priv(dev);
	struct vhs_rx_stats rx = vhs_rx_sum(port, 0);

	*data++ = rx.split_bytes;
	*data++ = rx.linear_bytes;
	*data++ = rx.unreadable_bytes;
	*data++ = rx.dma_bytes;
	*data++ = rx.alloc_fail;
	*data++ = rx.csum_drops;
	*data++ = rx.ring_full;
	*data++ = atomic64_read(&port->filtered);
}

/* Opens a port that was closed for a change, or had no memory to be opened
 * after one, if it is up.
 */
static int vhs_resume(struct vhs_port *port)
{
	return netif_running(port->dev) ? vhs_open(port->dev) : 0;
}

static void vhs_get_ringparam(struct net_device *dev,
			      struct ethtool_ringparam *ring,
			      struct kernel_ethtool_ringparam *kernel,
			      struct netlink_ext_ack *extack)
{
	struct vhs_port *port = netdev_priv(dev);

	ring->rx_max_pending = VHS_RING_MAX;
	ring->rx_pending = port->ring_size;
	kernel->tcp_data_split = port->hds_config;
#ifdef VHS_HAVE_HDS_THRESH
	kernel->hds_thresh = port->hds_thresh;
	kernel->hds_thresh_max = VHS_HDS_THRESH_MAX;
#endif
}

static int vhs_set_ringparam(struct net_device *dev,
			     struct ethtool_ringparam *ring,
			     struct kernel_ethtool_ringparam *kernel,
			     struct netlink_ext_ack *extack)
{
	struct vhs_port *port = netdev_priv(dev);
	u32 old = port->ring_size, old_thresh = port->hds_thresh;
	u8 old_config = port->hds_config;
	int err;

	if (ring->rx_pending < VHS_RING_MIN) {
		NL_SET_ERR_MSG_FMT(extack, "a ring has at least %u entries",
				   VHS_RING_MIN);
		return -EINVAL;
	}
	if (kernel->tcp_data_split != ETHTOOL_TCP_DATA_SPLIT_ENABLED &&
	    vhs_bound(dev)) {
		NL_SET_ERR_MSG(extack, "memory is bound, and takes payload only");
		return -EINVAL;
	}
	if (kernel->tcp_data_split == ETHTOOL_TCP_DATA_SPLIT_DISABLED &&
	    READ_ONCE(port->inject.refuse_off)) {
		NL_SET_ERR_MSG(extack, "the driver decides what is not on");
		return -EINVAL;
	}
	if (kernel->tcp_data_split == ETHTOOL_TCP_DATA_SPLIT_UNKNOWN)
		WRITE_ONCE(port->hds_config, ETHTOOL_TCP_DATA_SPLIT_DISABLED);
	else
		WRITE_ONCE(port->hds_config, kernel->tcp_data_split);
#ifdef VHS_HAVE_HDS_THRESH
	WRITE_ONCE(port->hds_thresh, kernel->hds_thresh);
#endif
	if (ring->rx_pending == old)
		return 0;

	vhs_stop(dev);
	port->ring_size = ring->rx_pending;
	err = vhs_resume(port);
	if (err) {
		NL_SET_ERR_MSG(extack, "no memory for rings of this size");
		port->ring_size = old;
		WRITE_ONCE(port->hds_config, old_config);
		WRITE_ONCE(port->hds_thresh, old_thresh);
		if (vhs_resume(port))
			netdev_err(dev, "stays closed: no memory for rings\n");
	}
	return err;
}

static void vhs_get_channels(struct net_device *dev,
			     struct ethtool_channels *channels)
{
	channels->max_combined = dev->num_rx_queues;
	channels->combined_count = dev->real_num_rx_queues;
}

/* The peer finds no queue that is gone: nothing arrives while closed. */
static int vhs_resume_with(struct vhs_port *port, unsigned int queues)
{
	struct net_device *dev = port->dev;
	unsigned int i;
	int err;

	err = netif_set_real_num_queues(dev, queues, queues);
	if (err)
		return err;
	if (!netif_is_rxfh_configured(dev))
		for (i = 0; i < VHS_INDIR_SIZE; i++)
			WRITE_ONCE(port->rss.indir[0][i],
				   ethtool_rxfh_indir_default(i, queues));
	return vhs_resume(port);
}

static int vhs_set_channels(struct net_device *dev,
			    struct ethtool_channels *channels)
{
	struct vhs_port *port = netdev_priv(dev);
	unsigned int old = dev->real_num_rx_queues;
	int err;

	vhs_stop(dev);
	err = vhs_resume_with(port, channels->combined_count);
	if (err && vhs_resume_with(port, old))
		netdev_err(dev, "stays closed: no memory for %u channels\n",
			   dev->real_num_rx_queues);
	return err;
}

static u32 vhs_get_rxfh_key_size(struct net_device *dev)
{
	return VHS_KEY_SIZE;
}

static u32 vhs_get_rxfh_indir_size(struct net_device *dev)
{
	return VHS_INDIR_SIZE;
}

static int vhs_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh)
{
	struct vhs_port *port = netdev_priv(dev);

	rxfh->hfunc = ETH_RSS_HASH_TOP;
	if (rxfh->indir)
		memcpy(rxfh->indir, port->rss.indir[0],
		       sizeof(port->rss.indir[0]));
	if (rxfh->key)
		memcpy(rxfh->key, port->rss.key, sizeof(port->rss.key));
	return 0;
}

static int vhs_rxfh_check(const struct ethtool_rxfh_param *rxfh,
			  struct netlink_ext_ack *extack)
{
	if (rxfh->hfunc != ETH_RSS_HASH_NO_CHANGE &&
	    rxfh->hfunc != ETH_RSS_HASH_TOP) {
		NL_SET_ERR_MSG(extack, "the hash is Toeplitz");
		return -EOPNOTSUPP;
	}
	return 0;
}

static void vhs_set_indir(struct vhs_port *port, u32 context, const u32 *indir)
{
	unsigned int i;

	for (i = 0; i < VHS_INDIR_SIZE; i++)
		WRITE_ONCE(port->rss.indir[context][i], indir[i]);
}

static int vhs_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
			struct netlink_ext_ack *extack)
{
	struct vhs_port *port = netdev_priv(dev);
	int err = vhs_rxfh_check(rxfh, extack);

	if (err)
		return err;
	if (rxfh->indir)
		vhs_set_indir(port, 0, rxfh->indir);
	if (rxfh->key)
		memcpy(port->rss.key, rxfh->key, sizeof(port->rss.key));
	return 0;
}

static int vhs_modify_rxfh_context(struct net_device *dev,
				   struct ethtool_rxfh_context *ctx,
				   const struct ethtool_rxfh_param *rxfh,
				   struct netlink_ext_ack *extack)
{
	int err = vhs_rxfh_check(rxfh, extack);

	if (!err && rxfh->indir)
		vhs_set_indir(netdev_priv(dev), rxfh->rss_context, rxfh->indir);
	return err;
}

static int vhs_create_rxfh_context(struct net_device *dev,
				   struct ethtool_rxfh_context *ctx,
				   const struct ethtool_rxfh_param *rxfh,
				   struct netlink_ext_ack *extack)
{
	u32 *indir = ethtool_rxfh_context_indir(ctx);
	struct vhs_port *port = netdev_priv(dev);
	unsigned int i;
	int err;

	ctx->hfunc = ETH_RSS_HASH_TOP;
	memcpy(ethtool_rxfh_context_key(ctx), port->rss.key, VHS_KEY_SIZE);
	if (!rxfh->indir) {
		for (i = 0; i < VHS_INDIR_SIZE; i++)
			indir[i] = ethtool_rxfh_indir_default(i,
							      dev->real_num_rx_queues);
		vhs_set_indir(port, rxfh->rss_context, indir);
	}
	err = vhs_modify_rxfh_context(dev, ctx, rxfh, extack);
	if (!err)
		__set_bit(rxfh->rss_context, port->rss.contexts);
	return err;
}

static int vhs_remove_rxfh_context(struct net_device *dev,
				   struct ethtool_rxfh_context *ctx,
				   u32 rss_context,
				   struct netlink_ext_ack *extack)
{
	struct vhs_port *port = netdev_priv(dev);

	if (vhs_context_used(port, rss_context)) {
		NL_SET_ERR_MSG(extack, "a rule names the context");
		return -EBUSY;
	}
	__clear_bit(rss_context, port->rss.contexts);
	return 0;
}

static int vhs_get_link_ksettings(struct net_device *dev,
				  struct ethtool_link_ksettings *ks)
{
	ks->base.speed = SPEED_100000;
	ks->base.duplex = DUPLEX_FULL;
	ks->base.autoneg = AUTONEG_DISABLE;
	ks->base.port = PORT_OTHER;
	return 0;
}

#ifdef VHS_HAVE_RXFH_FIELDS
static u32 vhs_get_rx_ring_count(struct net_device *dev)
{
	return dev->real_num_rx_queues;
}
#endif

const struct ethtool_ops vhs_ethtool_ops = {
	.supported_ring_params	= ETHTOOL_RING_USE_TCP_DATA_SPLIT
#ifdef VHS_HAVE_HDS_THRESH
				| ETHTOOL_RING_USE_HDS_THRS
#endif
				,
	VHS_NEEDS_RTNL
	VHS_RSS_CONTEXTS
	.rxfh_indir_space	= VHS_INDIR_SIZE,
	.rxfh_key_space		= VHS_KEY_SIZE,
	.rxfh_max_num_contexts	= VHS_CONTEXTS,
	.get_link		= ethtool_op_get_link,
	.get_link_ksettings	= vhs_get_link_ksettings,
	.get_ts_info		= ethtool_op_get_ts_info,
	.get_sset_count		= vhs_get_sset_count,
	.get_strings		= vhs_get_strings,
	.get_ethtool_stats	= vhs_get_ethtool_stats,
	.get_ringparam		= vhs_get_ringparam,
	.set_ringparam		= vhs_set_ringparam,
	.get_channels		= vhs_get_channels,
	.set_channels		= vhs_set_channels,
	.get_rxfh_key_size	= vhs_get_rxfh_key_size,
	.get_rxfh_indir_size	= vhs_get_rxfh_indir_size,
	.get_rxfh		= vhs_get_rxfh,
	.set_rxfh		= vhs_set_rxfh,
	.create_rxfh_context	= vhs_create_rxfh_context,
	.modify_rxfh_context	= vhs_modify_rxfh_context,
	.remove_rxfh_context	= vhs_remove_rxfh_context,
	.get_rxnfc		= vhs_get_rxnfc,
	.set_rxnfc		= vhs_set_rxnfc,
#ifdef VHS_HAVE_RXFH_FIELDS
	.get_rx_ring_count	= vhs_get_rx_ring_count,
	.get_rxfh_fields	= vhs_get_fields,
	.set_rxfh_fields	= vhs_set_fields,
#endif
};
