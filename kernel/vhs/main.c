// SPDX-License-Identifier: GPL-2.0
/* Module, and pairs of ports that come and go. */

#include <linux/dma-mapping.h>
#include <linux/etherdevice.h>
#include <linux/kmemleak.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/rtnetlink.h>
#include <linux/xarray.h>

#include "vhs.h"

static unsigned int pairs = 1;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "pairs of ports to begin with (default 1)");

static unsigned int queues = 4;
module_param(queues, uint, 0444);
MODULE_PARM_DESC(queues, "queues of a port (default 4, at most 128)");

#define VHS_PAIRS_MAX	64

struct vhs_pair {
	struct vhs_port *ports[2];
};

/* Platform devices by number. */
static DEFINE_XARRAY_ALLOC(vhs_pairs);
static DEFINE_MUTEX(vhs_pairs_lock);

static struct vhs_port *vhs_port_alloc(struct device *parent, int number)
{
	struct net_device *dev;
	struct vhs_port *port;

	dev = alloc_etherdev_mqs(sizeof(*port), queues, queues);
	if (!dev)
		return NULL;
	port = netdev_priv(dev);
	port->dev = dev;
	port->rxq = kvcalloc(queues, sizeof(*port->rxq), GFP_KERNEL);
	port->txq = kvcalloc(queues, sizeof(*port->txq), GFP_KERNEL);
	if (!port->rxq || !port->txq)
		goto err_free;
	strscpy(dev->name, "vhs%d", IFNAMSIZ);
	SET_NETDEV_DEV(dev, parent);
	dev->dev_port = number;
	vhs_setup(port);
	return port;

err_free:
	kvfree(port->txq);
	kvfree(port->rxq);
	free_netdev(dev);
	return NULL;
}

static void vhs_port_free(struct vhs_port *port)
{
	vhs_steer_exit(port);
	kvfree(port->txq);
	kvfree(port->rxq);
	free_netdev(port->dev);
}

static int vhs_probe(struct platform_device *pdev)
{
	struct vhs_pair *pair;
	int i, err;

	err = dma_coerce_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (err)
		return err;
	/* Memory without holes is one segment to it, however large. */
	dma_set_max_seg_size(&pdev->dev, UINT_MAX);
	pair = devm_kzalloc(&pdev->dev, sizeof(*pair), GFP_KERNEL);
	if (!pair)
		return -ENOMEM;
	for (i = 0; i < 2; i++) {
		pair->ports[i] = vhs_port_alloc(&pdev->dev, i);
		if (!pair->ports[i]) {
			err = -ENOMEM;
			goto err_free;
		}
	}
	pair->ports[0]->peer = pair->ports[1];
	pair->ports[1]->peer = pair->ports[0];

	rtnl_lock();
	for (i = 0; i < 2; i++) {
		netif_carrier_off(pair->ports[i]->dev);
		err = register_netdevice(pair->ports[i]->dev);
		if (err)
			goto err_unregister;
	}
	rtnl_unlock();
	for (i = 0; i < 2; i++)
		vhs_debugfs_add(pair->ports[i]);
	platform_set_drvdata(pdev, pair);
	return 0;

err_unregister:
	while (i--)
		unregister_netdevice(pair->ports[i]->dev);
	rtnl_unlock();
	i = 2;
err_free:
	while (i--)
		vhs_port_free(pair->ports[i]);
	return err;
}

static void vhs_remove(struct platform_device *pdev)
{
	struct vhs_pair *pair = platform_get_drvdata(pdev);
	LIST_HEAD(list);
	int i;

	for (i = 0; i < 2; i++)
		vhs_debugfs_del(pair->ports[i]);
	/* Both are closed before either is freed. */
	rtnl_lock();
	for (i = 0; i < 2; i++)
		unregister_netdevice_queue(pair->ports[i]->dev, &list);
	unregister_netdevice_many(&list);
	rtnl_unlock();
	for (i = 0; i < 2; i++)
		vhs_port_free(pair->ports[i]);
	/*
	 * A dma-buf attachment of devmem names this device, without a
	 * reference, until the last token is back, and nobody says when that
	 * is. So the device itself, less than 2 KiB, is never freed.
	 */
	get_device(&pdev->dev);
	kmemleak_not_leak(pdev);
}

static int vhs_pair_add(void)
{
	struct platform_device *pdev;
	u32 id;
	int err;

	mutex_lock(&vhs_pairs_lock);
	err = xa_alloc(&vhs_pairs, &id, NULL, XA_LIMIT(0, VHS_PAIRS_MAX - 1),
		       GFP_KERNEL);
	if (err) {
		if (err == -EBUSY)
			pr_err("vhs: there are %u pairs, the most\n",
			       VHS_PAIRS_MAX);
		goto out_unlock;
	}
	pdev = platform_device_register_simple("vhs", id, NULL, 0);
	err = PTR_ERR_OR_ZERO(pdev);
	if (err)
		goto err_erase;
	/* Nobody else says that it could not be probed. */
	if (!platform_get_drvdata(pdev)) {
		platform_device_unregister(pdev);
		err = -ENOMEM;
		goto err_erase;
	}
	xa_store(&vhs_pairs, id, pdev, GFP_KERNEL);
	goto out_unlock;

err_erase:
	xa_erase(&vhs_pairs, id);
out_unlock:
	mutex_unlock(&vhs_pairs_lock);
	return err;
}

static int vhs_pair_del(int id)
{
	struct platform_device *pdev;

	mutex_lock(&vhs_pairs_lock);
	pdev = xa_erase(&vhs_pairs, id);
	if (pdev)
		platform_device_unregister(pdev);
	mutex_unlock(&vhs_pairs_lock);
	return pdev ? 0 : -ENODEV;
}

static ssize_t new_pair_store(struct device_driver *driver, const char *buf,
			      size_t count)
{
	int err;

	if (!sysfs_streq(buf, "1")) {
		pr_err("vhs: new_pair takes a 1\n");
		return -EINVAL;
	}
	err = vhs_pair_add();
	return err ? err : count;
}
static DRIVER_ATTR_WO(new_pair);

static ssize_t del_pair_store(struct device_driver *driver, const char *buf,
			      size_t count)
{
	unsigned int id;
	int err;

	err = kstrtouint(buf, 0, &id);
	if (err) {
		pr_err("vhs: del_pair takes the number of a pair\n");
		return err;
	}
	err = id < VHS_PAIRS_MAX ? vhs_pair_del(id) : -ENODEV;
	if (err)
		pr_err("vhs: there is no pair %u\n", id);
	return err ? err : count;
}
static DRIVER_ATTR_WO(del_pair);

static struct attribute *vhs_driver_attrs[] = {
	&driver_attr_new_pair.attr,
	&driver_attr_del_pair.attr,
	NULL
};
ATTRIBUTE_GROUPS(vhs_driver);

static struct platform_driver vhs_driver = {
	.probe = vhs_probe,
	.remove = vhs_remove,
	.driver = {
		.name = "vhs",
		.groups = vhs_driver_groups,
	},
};

/* The driver goes first: then nobody makes a pair any more. */
static void vhs_unregister(void)
{
	int id;

	platform_driver_unregister(&vhs_driver);
	for (id = 0; id < VHS_PAIRS_MAX; id++)
		vhs_pair_del(id);
	xa_destroy(&vhs_pairs);
}

static int __init vhs_init(void)
{
	unsigned int i;
	int err;

	if (!queues || queues > VHS_QUEUES_MAX || pairs > VHS_PAIRS_MAX) {
		pr_err("vhs: queues must be 1..%u, pairs at most %u\n",
		       VHS_QUEUES_MAX, VHS_PAIRS_MAX);
		return -EINVAL;
	}
	vhs_debugfs_init();
	err = platform_driver_register(&vhs_driver);
	if (err)
		goto err_debugfs;
	for (i = 0; i < pairs; i++) {
		err = vhs_pair_add();
		if (err)
			goto err_pairs;
	}
	return 0;

err_pairs:
	vhs_unregister();
err_debugfs:
	vhs_debugfs_exit();
	return err;
}
module_init(vhs_init);

static void __exit vhs_exit(void)
{
	vhs_unregister();
	vhs_debugfs_exit();
}
module_exit(vhs_exit);

MODULE_DESCRIPTION("Pairs of virtual NICs that split headers");
MODULE_LICENSE("GPL");
