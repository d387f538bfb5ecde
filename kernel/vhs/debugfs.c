// SPDX-License-Identifier: GPL-2.0
/* Faults on demand: /sys/kernel/debug/vhs/<device>.<port>/. */

#include <linux/debugfs.h>
#include <linux/rtnetlink.h>

#include "vhs.h"

static struct dentry *vhs_root;

static int vhs_stop_queues_get(void *data, u64 *mask)
{
	struct vhs_port *port = data;

	*mask = port->inject.stop_queues;
	return 0;
}

/* What waits in a queue that may go on is looked at now, and not when the next
 * packet comes.
 */
static int vhs_stop_queues_set(void *data, u64 mask)
{
	struct vhs_port *port = data;
	unsigned int i;

	if (mask > U32_MAX)
		return -ERANGE;
	rtnl_lock();
	WRITE_ONCE(port->inject.stop_queues, mask);
	if (port->running)
		for (i = 0; i < port->dev->real_num_rx_queues; i++)
			vhs_rxq_kick(&port->rxq[i]);
	rtnl_unlock();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(vhs_stop_queues_fops, vhs_stop_queues_get,
			 vhs_stop_queues_set, "0x%08llx\n");

void vhs_debugfs_add(struct vhs_port *port)
{
	struct vhs_inject *inject = &port->inject;
	struct dentry *dir;
	char name[48];

	snprintf(name, sizeof(name), "%s.%u", dev_name(port->dev->dev.parent),
		 port->dev->dev_port);
	dir = debugfs_create_dir(name, vhs_root);
	debugfs_create_u32("loss", 0600, dir, &inject->loss);
	debugfs_create_u32("reorder", 0600, dir, &inject->reorder);
	debugfs_create_u32("duplicate", 0600, dir, &inject->duplicate);
	debugfs_create_u32("split_fail", 0600, dir, &inject->split_fail);
	debugfs_create_u32("split_late", 0600, dir, &inject->split_late);
	debugfs_create_u32("alloc_fail", 0600, dir, &inject->alloc_fail);
	debugfs_create_u32("delay", 0600, dir, &inject->delay);
	debugfs_create_bool("refuse_off", 0600, dir, &inject->refuse_off);
	debugfs_create_bool("refuse_ntuple", 0600, dir,
			    &inject->refuse_ntuple);
	debugfs_create_file("stop_queues", 0600, dir, port,
			    &vhs_stop_queues_fops);
	port->debugfs = dir;
}

void vhs_debugfs_del(struct vhs_port *port)
{
	debugfs_remove(port->debugfs);
}

void vhs_debugfs_init(void)
{
	vhs_root = debugfs_create_dir("vhs", NULL);
}

void vhs_debugfs_exit(void)
{
	debugfs_remove(vhs_root);
}
