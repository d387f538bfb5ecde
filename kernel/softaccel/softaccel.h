/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SOFTACCEL_INTERNAL_H
#define SOFTACCEL_INTERNAL_H

#include <linux/dma-buf.h>
#include <linux/genalloc.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/workqueue.h>

#include <softaccel.h>

#include "../compat.h"
#include "../vhs/window.h"

/* Lives as long as the PCI device, an open file or a buffer. */
struct softaccel {
	struct kref ref;
	struct miscdevice misc;
	int id;
	phys_addr_t start;
	size_t size;
	struct vhs_window window;
	struct gen_pool *pool;
	struct workqueue_struct *engine;
	atomic_t waiting;	/* segments of copies with an eventfd */
	atomic64_t copies;
	atomic64_t copied_bytes;
	atomic64_t sums;
	atomic64_t summed_bytes;
};

struct softaccel_buffer {
	struct softaccel *accel;
	unsigned long offset;	/* in the accelerator's memory */
	size_t size;
};

/* Why a call is refused. */
#define softaccel_say(accel, fmt, ...)					\
	pr_notice_ratelimited("%s: " fmt "\n", (accel)->misc.name,	\
			      ##__VA_ARGS__)

void softaccel_put(struct softaccel *accel);

/* buffer.c */
int softaccel_alloc(struct softaccel *accel, u64 size);
struct softaccel_buffer *softaccel_buffer(struct softaccel *accel,
					  struct dma_buf *dmabuf);
void *softaccel_va(struct softaccel_buffer *buffer, u64 offset);

/* engine.c */
int softaccel_copy(struct softaccel *accel, const struct softaccel_copy *copy);
int softaccel_sum(struct softaccel *accel, struct softaccel_sum *sum);

#endif
