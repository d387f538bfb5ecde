/* SPDX-License-Identifier: GPL-2.0 */
/* What iou-zcrx.c uses of liburing 2.10, for Debian's 2.9. */
#include <linux/io_uring.h>
#include <liburing.h>

struct io_uring_zcrx_rq {
	unsigned int *khead;
	unsigned int *ktail;
	unsigned int rq_tail;
	unsigned int ring_entries;
	struct io_uring_zcrx_rqe *rqes;
};

static inline int io_uring_register_ifq(struct io_uring *ring, struct io_uring_zcrx_ifq_reg *reg)
{
	return io_uring_register(ring->ring_fd, IORING_REGISTER_ZCRX_IFQ, reg, 1);
}
