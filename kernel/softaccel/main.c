// SPDX-License-Identifier: GPL-2.0
/* The PCI device, QEMU's ivshmem-plain, and its character device. */

#include <linux/idr.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uaccess.h>

#include "softaccel.h"

#define SOFTACCEL_BAR	2

static DEFINE_IDA(softaccel_ids);

static void softaccel_free(struct kref *ref)
{
	struct softaccel *accel = container_of(ref, struct softaccel, ref);

	vhs_window_del(&accel->window);
	destroy_workqueue(accel->engine);
	gen_pool_destroy(accel->pool);
	memunmap(accel->window.va);
	release_mem_region(accel->start, accel->size);
	ida_free(&softaccel_ids, accel->id);
	kfree(accel->misc.name);
	kfree(accel);
}

void softaccel_put(struct softaccel *accel)
{
	kref_put(&accel->ref, softaccel_free);
}

/* misc_open() holds off misc_deregister(), hence the final put. */
static int softaccel_open(struct inode *inode, struct file *file)
{
	struct softaccel *accel = container_of(file->private_data,
					       struct softaccel, misc);

	kref_get(&accel->ref);
	file->private_data = accel;
	return 0;
}

static int softaccel_close(struct inode *inode, struct file *file)
{
	softaccel_put(file->private_data);
	return 0;
}

static long softaccel_do_info(struct softaccel *accel, void __user *arg)
{
	struct softaccel_info info = {
		.size = accel->size,
		.free = gen_pool_avail(accel->pool),
		.copies = atomic64_read(&accel->copies),
		.copied_bytes = atomic64_read(&accel->copied_bytes),
		.sums = atomic64_read(&accel->sums),
		.summed_bytes = atomic64_read(&accel->summed_bytes),
	};

	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long softaccel_do_alloc(struct softaccel *accel, void __user *arg)
{
	struct softaccel_alloc alloc;
	int fd;

	if (copy_from_user(&alloc, arg, sizeof(alloc)))
		return -EFAULT;
	if (alloc.reserved) {
		softaccel_say(accel, "reserved must be 0");
		return -EINVAL;
	}
	fd = softaccel_alloc(accel, alloc.size);
	if (fd < 0)
		return fd;
	/* A caller that can't hear of its descriptor still holds it. */
	alloc.fd = fd;
	return copy_to_user(arg, &alloc, sizeof(alloc)) ? -EFAULT : 0;
}

static long softaccel_do_copy(struct softaccel *accel, void __user *arg)
{
	struct softaccel_copy copy;

	if (copy_from_user(&copy, arg, sizeof(copy)))
		return -EFAULT;
	return softaccel_copy(accel, &copy);
}

static long softaccel_do_sum(struct softaccel *accel, void __user *arg)
{
	struct softaccel_sum sum;
	int err;

	if (copy_from_user(&sum, arg, sizeof(sum)))
		return -EFAULT;
	err = softaccel_sum(accel, &sum);
	if (err)
		return err;
	return copy_to_user(arg, &sum, sizeof(sum)) ? -EFAULT : 0;
}

static long softaccel_ioctl(struct file *file, unsigned int cmd,
			    unsigned long arg)
{
	struct softaccel *accel = file->private_data;
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case SOFTACCEL_INFO:
		return softaccel_do_info(accel, user);
	case SOFTACCEL_ALLOC:
		return softaccel_do_alloc(accel, user);
	case SOFTACCEL_COPY:
		return softaccel_do_copy(accel, user);
	case SOFTACCEL_SUM:
		return softaccel_do_sum(accel, user);
	default:
		if (_IOC_TYPE(cmd) == _IOC_TYPE(SOFTACCEL_INFO))
			softaccel_say(accel, "no call %u with %u bytes",
				      _IOC_NR(cmd), _IOC_SIZE(cmd));
		return -ENOTTY;
	}
}

static const struct file_operations softaccel_fops = {
	.owner		= THIS_MODULE,
	.open		= softaccel_open,
	.release	= softaccel_close,
	.unlocked_ioctl	= softaccel_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static int softaccel_memory(struct softaccel *accel)
{
	int err;

	if (!request_mem_region(accel->start, accel->size, "softaccel"))
		return -EBUSY;
	accel->window.start = accel->start;
	accel->window.size = accel->size;
	accel->window.va = memremap(accel->start, accel->size, MEMREMAP_WB);
	if (!accel->window.va) {
		err = -ENOMEM;
		goto err_region;
	}
	accel->pool = gen_pool_create(PAGE_SHIFT, NUMA_NO_NODE);
	if (!accel->pool) {
		err = -ENOMEM;
		goto err_unmap;
	}
	gen_pool_set_algo(accel->pool, gen_pool_first_fit_order_align, NULL);
	err = gen_pool_add(accel->pool, accel->start, accel->size,
			   NUMA_NO_NODE);
	if (err)
		goto err_pool;
	accel->engine = alloc_ordered_workqueue("softaccel", 0);
	if (!accel->engine) {
		err = -ENOMEM;
		goto err_pool;
	}
	vhs_window_add(&accel->window);
	return 0;

err_pool:
	gen_pool_destroy(accel->pool);
err_unmap:
	memunmap(accel->window.va);
err_region:
	release_mem_region(accel->start, accel->size);
	return err;
}

static int softaccel_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct softaccel *accel;
	int err;

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	if (!pci_resource_len(pdev, SOFTACCEL_BAR))
		return dev_err_probe(&pdev->dev, -ENODEV, "no memory BAR\n");
	accel = kzalloc_obj(*accel);
	if (!accel)
		return -ENOMEM;
	kref_init(&accel->ref);
	accel->start = pci_resource_start(pdev, SOFTACCEL_BAR);
	accel->size = pci_resource_len(pdev, SOFTACCEL_BAR);
	accel->id = ida_alloc(&softaccel_ids, GFP_KERNEL);
	if (accel->id < 0) {
		err = accel->id;
		goto err_free;
	}
	accel->misc.minor = MISC_DYNAMIC_MINOR;
	accel->misc.fops = &softaccel_fops;
	accel->misc.parent = &pdev->dev;
	accel->misc.name = kasprintf(GFP_KERNEL, "softaccel%d", accel->id);
	if (!accel->misc.name) {
		err = -ENOMEM;
		goto err_id;
	}
	err = softaccel_memory(accel);
	if (err)
		goto err_name;
	err = misc_register(&accel->misc);
	if (err)
		goto err_put;
	pci_set_drvdata(pdev, accel);
	return 0;

err_put:
	softaccel_put(accel);
	return err;
err_name:
	kfree(accel->misc.name);
err_id:
	ida_free(&softaccel_ids, accel->id);
err_free:
	kfree(accel);
	return err;
}

static void softaccel_remove(struct pci_dev *pdev)
{
	struct softaccel *accel = pci_get_drvdata(pdev);

	misc_deregister(&accel->misc);
	softaccel_put(accel);
}

static const struct pci_device_id softaccel_pci_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110) },
	{ }
};
MODULE_DEVICE_TABLE(pci, softaccel_pci_ids);

static struct pci_driver softaccel_driver = {
	.name = "softaccel",
	.id_table = softaccel_pci_ids,
	.probe = softaccel_probe,
	.remove = softaccel_remove,
	/* Buffers may be bound to queues. */
	.driver.suppress_bind_attrs = true,
};
module_pci_driver(softaccel_driver);

MODULE_DESCRIPTION("Memory apart from the CPU's, with a copy engine");
MODULE_LICENSE("GPL");
