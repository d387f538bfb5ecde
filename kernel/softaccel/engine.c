// SPDX-License-Identifier: GPL-2.0
/* The copy engine and the checksum. */

#include <linux/crc32c.h>
#include <linux/delay.h>
#include <linux/eventfd.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "softaccel.h"

static unsigned int rate;
module_param(rate, uint, 0644);
MODULE_PARM_DESC(rate, "speed limit of the engine in MB/s (default 0: none)");

/* Bytes between two looks at signals and the clock. */
#define SOFTACCEL_STEP	SZ_1M

struct softaccel_job {
	struct work_struct work;
	struct softaccel *accel;
	struct dma_buf *src;	/* NULL: the caller's memory */
	struct dma_buf *dst;
	struct eventfd_ctx *done;
	struct softaccel_segment *segments;
	unsigned int count;
};

static bool softaccel_inside(struct softaccel *accel, struct dma_buf *dmabuf,
			     u64 offset, u64 len)
{
	if (!dmabuf || (len <= dmabuf->size && offset <= dmabuf->size - len))
		return true;
	softaccel_say(accel, "%llu bytes at %llu are not inside %zu", len,
		      offset, dmabuf->size);
	return false;
}

static int softaccel_step(struct softaccel_job *job, u64 src, u64 dst, size_t n)
{
	void *from = NULL, *to = NULL;

	if (job->src)
		from = softaccel_va(job->src->priv, src);
	if (job->dst)
		to = softaccel_va(job->dst->priv, dst);
	if (!from)
		return copy_from_user(to, u64_to_user_ptr(src), n) ? -EFAULT : 0;
	if (!to)
		return copy_to_user(u64_to_user_ptr(dst), from, n) ? -EFAULT : 0;
	/* It is the faster one where the processor has no fast "rep movs". */
	if (from >= to + n || to >= from + n)
		memcpy(to, from, n);
	else
		memmove(to, from, n);
	return 0;
}

/* Holds the engine to its rate: the device would still be busy. */
static void softaccel_pace(struct softaccel_job *job, ktime_t start, u64 bytes)
{
	unsigned int mbs = READ_ONCE(rate);
	s64 us;

	if (!mbs || (!job->done && fatal_signal_pending(current)))
		return;
	us = div_u64(bytes, mbs) - ktime_us_delta(ktime_get(), start);
	/* More than one step's time is due when the rate has been lowered. */
	if (us > 0)
		fsleep(min_t(s64, us, SOFTACCEL_STEP / mbs + 1));
}

/* Does a signal keep the engine from what is left? */
static bool softaccel_interrupted(struct softaccel_job *job)
{
	if (job->done)
		return false;
	return READ_ONCE(rate) ? signal_pending(current) :
				 fatal_signal_pending(current);
}

static int softaccel_segment(struct softaccel_job *job,
			     const struct softaccel_segment *segment,
			     ktime_t start, u64 *bytes)
{
	/* From the end if the ranges overlap that way, as memmove does. */
	bool back = job->src && job->src == job->dst &&
		    segment->dst > segment->src;
	u64 left = segment->len;
	int err;

	while (left) {
		size_t n = min_t(u64, left, SOFTACCEL_STEP);
		u64 at = back ? left - n : segment->len - left;

		err = softaccel_step(job, segment->src + at, segment->dst + at,
				     n);
		if (err)
			return err;
		left -= n;
		*bytes += n;
		atomic64_add(n, &job->accel->copied_bytes);
		softaccel_pace(job, start, *bytes);
		/* What is complete does not fail. */
		if (left && softaccel_interrupted(job))
			return -EINTR;
		cond_resched();
	}
	atomic64_inc(&job->accel->copies);
	return 0;
}

static int softaccel_run(struct softaccel_job *job)
{
	ktime_t start = ktime_get();
	u64 bytes = 0;
	unsigned int i;
	int err;

	for (i = 0; i < job->count; i++) {
		if (i && softaccel_interrupted(job))
			return -EINTR;
		err = softaccel_segment(job, &job->segments[i], start, &bytes);
		if (err)
			return err;
	}
	return 0;
}

static void softaccel_job_free(struct softaccel_job *job)
{
	if (job->done)
		eventfd_ctx_put(job->done);
	if (job->src)
		dma_buf_put(job->src);
	if (job->dst)
		dma_buf_put(job->dst);
	kvfree(job->segments);
	kfree(job);
}

static void softaccel_job_work(struct work_struct *work)
{
	struct softaccel_job *job = container_of(work, struct softaccel_job,
						 work);

	/* Between buffers, after the checks, nothing can fail. */
	softaccel_run(job);
	atomic_sub(job->count, &job->accel->waiting);
	eventfd_signal(job->done);
	softaccel_job_free(job);
}

static int softaccel_end(struct softaccel *accel, int fd, struct dma_buf **end)
{
	struct dma_buf *dmabuf;

	if (fd == SOFTACCEL_HOST)
		return 0;
	dmabuf = dma_buf_get(fd);
	if (IS_ERR(dmabuf)) {
		softaccel_say(accel, "descriptor %d is no dma-buf", fd);
		return PTR_ERR(dmabuf);
	}
	if (!softaccel_buffer(accel, dmabuf)) {
		softaccel_say(accel, "dma-buf %d is another device's", fd);
		dma_buf_put(dmabuf);
		return -EINVAL;
	}
	*end = dmabuf;
	return 0;
}

static int softaccel_job_fill(struct softaccel_job *job,
			      const struct softaccel_copy *copy)
{
	struct softaccel *accel = job->accel;
	unsigned int i;
	int err;

	err = softaccel_end(accel, copy->src_fd, &job->src);
	if (err)
		return err;
	err = softaccel_end(accel, copy->dst_fd, &job->dst);
	if (err)
		return err;
	if (!job->src && !job->dst) {
		softaccel_say(accel, "a copy without a dma-buf");
		return -EINVAL;
	}

	job->segments = vmemdup_array_user(u64_to_user_ptr(copy->segments),
					   copy->count,
					   sizeof(*job->segments));
	if (IS_ERR(job->segments)) {
		err = PTR_ERR(job->segments);
		job->segments = NULL;
		return err;
	}
	job->count = copy->count;
	for (i = 0; i < job->count; i++) {
		const struct softaccel_segment *s = &job->segments[i];

		if (!softaccel_inside(accel, job->src, s->src, s->len) ||
		    !softaccel_inside(accel, job->dst, s->dst, s->len))
			return -EINVAL;
	}

	if (copy->event_fd < 0)
		return 0;
	if (!job->src || !job->dst) {
		softaccel_say(accel, "an eventfd, and no dma-buf at one end");
		return -EINVAL;
	}
	job->done = eventfd_ctx_fdget(copy->event_fd);
	if (IS_ERR(job->done)) {
		softaccel_say(accel, "descriptor %d is no eventfd",
			      copy->event_fd);
		err = PTR_ERR(job->done);
		job->done = NULL;
		return err;
	}
	return 0;
}

/* The job may be gone when this has succeeded. */
static int softaccel_queue(struct softaccel_job *job)
{
	struct softaccel *accel = job->accel;

	if (atomic_add_return(job->count, &accel->waiting) >
	    SOFTACCEL_WAITING_MAX) {
		atomic_sub(job->count, &accel->waiting);
		softaccel_say(accel, "%u segments more than may wait",
			      job->count);
		return -EAGAIN;
	}
	INIT_WORK(&job->work, softaccel_job_work);
	queue_work(accel->engine, &job->work);
	return 0;
}

int softaccel_copy(struct softaccel *accel, const struct softaccel_copy *copy)
{
	struct softaccel_job *job;
	int err;

	if (copy->count > SOFTACCEL_SEGMENTS_MAX) {
		softaccel_say(accel, "%u segments, %u at most", copy->count,
			      SOFTACCEL_SEGMENTS_MAX);
		return -E2BIG;
	}
	if (!copy->count || copy->event_fd < -1) {
		softaccel_say(accel, "%u segments, eventfd %d", copy->count,
			      copy->event_fd);
		return -EINVAL;
	}
	job = kzalloc_obj(*job);
	if (!job)
		return -ENOMEM;
	job->accel = accel;
	err = softaccel_job_fill(job, copy);
	if (err)
		goto out_free;
	if (job->done) {
		err = softaccel_queue(job);
		if (!err)
			return 0;
	} else {
		err = softaccel_run(job);
	}
out_free:
	softaccel_job_free(job);
	return err;
}

int softaccel_sum(struct softaccel *accel, struct softaccel_sum *sum)
{
	struct dma_buf *dmabuf = NULL;
	u64 offset, left;
	u32 crc = ~0;
	int err;

	err = softaccel_end(accel, sum->fd, &dmabuf);
	if (err)
		return err;
	if (!dmabuf) {
		softaccel_say(accel, "sums are of dma-bufs");
		return -EINVAL;
	}
	if (!softaccel_inside(accel, dmabuf, sum->offset, sum->len)) {
		err = -EINVAL;
		goto out_put;
	}
	offset = sum->offset;
	for (left = sum->len; left; cond_resched()) {
		size_t n = min_t(u64, left, SOFTACCEL_STEP);

		crc = crc32c(crc, softaccel_va(dmabuf->priv, offset), n);
		offset += n;
		left -= n;
	}
	sum->crc = ~crc;
	atomic64_inc(&accel->sums);
	atomic64_add(sum->len, &accel->summed_bytes);
out_put:
	dma_buf_put(dmabuf);
	return err;
}
