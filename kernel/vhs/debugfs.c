// SPDX-License-Identifier: GPL-2.0
/* Faults on demand: /sys/kernel/debug/vhs/<device>.<port>/. */

#include <linux/debugfs.h>

#include "vhs.h"

static struct dentry *vhs_root;

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
	debugfs_create_x32("stop_queues", 0600, dir, &inject->stop_queues);
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
