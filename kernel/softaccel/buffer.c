// SPDX-License-Identifier: GPL-2.0
/* Memory as dma-bufs: bus addresses only, neither pages nor mappings. */

#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "softaccel.h"

/* A scatterlist entry has a 32-bit length. */
#define SOFTACCEL_CHUNK	SZ_1G

static void softaccel_unmap_sgt(struct device *dev, struct sg_table *sgt,
				unsigned int mapped,
				enum dma_data_direction dir)
{
	struct scatterlist *sg;
	unsigned int i;

	for_each_sg(sgt->sgl, sg, mapped, i)
		dma_unmap_resource(dev, sg_dma_address(sg), sg_dma_len(sg), dir,
				   DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
	kfree(sgt);
}

static struct sg_table *softaccel_map(struct dma_buf_attachment *attach,
				      enum dma_data_direction dir)
{
	struct softaccel_buffer *buffer = attach->dmabuf->priv;
	phys_addr_t phys = buffer->accel->start + buffer->offset;
	unsigned int n = DIV_ROUND_UP(buffer->size, SOFTACCEL_CHUNK), i;
	size_t left = buffer->size;
	struct scatterlist *sg;
	struct sg_table *sgt;
	int err;

	sgt = kzalloc_obj(*sgt);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	err = sg_alloc_table(sgt, n, GFP_KERNEL);
	if (err)
		goto err_free;
	for_each_sgtable_sg(sgt, sg, i) {
		size_t len = min_t(size_t, left, SOFTACCEL_CHUNK);
		dma_addr_t addr;

		addr = dma_map_resource(attach->dev, phys, len, dir,
					DMA_ATTR_SKIP_CPU_SYNC);
		if (dma_mapping_error(attach->dev, addr)) {
			softaccel_unmap_sgt(attach->dev, sgt, i, dir);
			return ERR_PTR(-EIO);
		}
		sg_dma_address(sg) = addr;
		sg_dma_len(sg) = len;
		phys += len;
		left -= len;
	}
	return sgt;

err_free:
	kfree(sgt);
	return ERR_PTR(err);
}

static void softaccel_unmap(struct dma_buf_attachment *attach,
			    struct sg_table *sgt, enum dma_data_direction dir)
{
	softaccel_unmap_sgt(attach->dev, sgt, sgt->nents, dir);
}

static void softaccel_release(struct dma_buf *dmabuf)
{
	struct softaccel_buffer *buffer = dmabuf->priv;
	struct softaccel *accel = buffer->accel;

	gen_pool_free(accel->pool, accel->start + buffer->offset, buffer->size);
	kfree(buffer);
	softaccel_put(accel);
}

static const struct dma_buf_ops softaccel_dmabuf_ops = {
	.map_dma_buf	= softaccel_map,
	.unmap_dma_buf	= softaccel_unmap,
	.release	= softaccel_release,
};

/* A descriptor of the new buffer. */
int softaccel_alloc(struct softaccel *accel, u64 size)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct softaccel_buffer *buffer;
	struct dma_buf *dmabuf;
	unsigned long addr;
	int err, fd;

	if (!size || !IS_ALIGNED(size, PAGE_SIZE)) {
		softaccel_say(accel, "%llu bytes are not a multiple of %lu",
			      size, PAGE_SIZE);
		return -EINVAL;
	}
	if (size > accel->size) {
		softaccel_say(accel, "no room for %llu bytes in %zu", size,
			      accel->size);
		return -ENOMEM;
	}
	buffer = kzalloc_obj(*buffer);
	if (!buffer)
		return -ENOMEM;
	addr = gen_pool_alloc(accel->pool, size);
	if (!addr) {
		softaccel_say(accel, "no room for %llu bytes, %zu are free",
			      size, gen_pool_avail(accel->pool));
		err = -ENOMEM;
		goto err_free;
	}
	buffer->accel = accel;
	buffer->offset = addr - accel->start;
	buffer->size = size;
	/* The last owner's data stays its own. */
	memset(softaccel_va(buffer, 0), 0, size);

	info.ops = &softaccel_dmabuf_ops;
	info.size = size;
	info.flags = O_RDWR;
	info.priv = buffer;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		err = PTR_ERR(dmabuf);
		goto err_pool;
	}
	kref_get(&accel->ref);
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;

err_pool:
	gen_pool_free(accel->pool, addr, size);
err_free:
	kfree(buffer);
	return err;
}

/* The buffer behind a dma-buf of this very device. */
struct softaccel_buffer *softaccel_buffer(struct softaccel *accel,
					  struct dma_buf *dmabuf)
{
	struct softaccel_buffer *buffer = dmabuf->priv;

	if (dmabuf->ops != &softaccel_dmabuf_ops || buffer->accel != accel)
		return NULL;
	return buffer;
}

void *softaccel_va(struct softaccel_buffer *buffer, u64 offset)
{
	return buffer->accel->window.va + buffer->offset + offset;
}

VHS_IMPORT_NS_DMA_BUF;
