// SPDX-License-Identifier: GPL-2.0
/* devmem: a stream received by io_uring's zero-copy receive; io_uring/zcrx.c. */

#define _GNU_SOURCE

#include "devmem.h"

#include <errno.h>
#include <net/if.h>

#include <linux/io_uring.h>	/* before liburing's, which may be older */
#include <liburing.h>

#define REFILLS	16384		/* of the ring that memory goes back by */
#define ASKED	(POOL_SIZE / 8)	/* of one request */

static struct io_uring ring;

/* The ring by which memory goes back to the queue. */
static unsigned int *refill_head, *refill_tail, filled;
static struct io_uring_zcrx_rqe *refills;
static __u64 token;
static __u32 awaited;		/* of what was asked for */

static void check(int err, const char *what)
{
	if (err >= 0)
		return;
	errno = -err;
	die(what);
}

void open_zcrx(int dmabuf)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CQE32 |
			 IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = 2 * REFILLS,
	};
	size_t size = REFILLS * sizeof(*refills) + 4096;
	unsigned char *shared = host_memory(size).va;
	struct io_uring_region_desc region = {
		.user_addr = (__u64)shared,
		.size = size,
		.flags = IORING_MEM_REGION_TYPE_USER,
	};
	struct io_uring_zcrx_area_reg area = {
		.len = POOL_SIZE,
		.flags = IORING_ZCRX_AREA_DMABUF,
		.dmabuf_fd = dmabuf,
	};
	struct io_uring_zcrx_ifq_reg reg = {
		.if_idx = if_nametoindex(ifname),
		.if_rxq = first_queue,
		.rq_entries = REFILLS,
		.area_ptr = (__u64)&area,
		.region_ptr = (__u64)&region,
		.rx_buf_len = buffer_size,
	};

	check(io_uring_queue_init_params(64, &ring, &params), "io_uring");
	check(io_uring_register(ring.ring_fd, IORING_REGISTER_ZCRX_IFQ,
				&reg, 1), "IORING_REGISTER_ZCRX_IFQ");
	refill_head = (unsigned int *)(shared + reg.offsets.head);
	refill_tail = (unsigned int *)(shared + reg.offsets.tail);
	refills = (struct io_uring_zcrx_rqe *)(shared + reg.offsets.rqes);
	token = area.rq_area_token;
}

/* A request without a limit takes all that comes from the socket at once: the
 * sender's window never closes, and packets are lost for want of memory.
 */
static void ask(int fd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	awaited = ASKED;
	io_uring_prep_rw(IORING_OP_RECV_ZC, sqe, fd, NULL, awaited, 0);
	sqe->ioprio = IORING_RECV_MULTISHOT;
}

enum next { MORE, HOST, END };

/* The completions that are there, FRAGS at most; what comes then. HOST: bytes
 * that were not put into the pool, for which it says that it has no memory.
 */
static enum next take(int fd, struct received *received)
{
	struct io_uring_cqe *cqe;
	unsigned int head, count = 0;
	enum next next = MORE;

	received->frags = 0;
	io_uring_for_each_cqe(&ring, head, cqe) {
		struct io_uring_zcrx_cqe *where = (void *)(cqe + 1);

		count++;
		if (cqe->res == -ENOMEM) {
			next = HOST;
			break;
		}
		check(cqe->res, "IORING_OP_RECV_ZC");
		if (!cqe->res && awaited) {
			next = END;
			break;
		}
		awaited -= cqe->res;
		if (!(cqe->flags & IORING_CQE_F_MORE))
			ask(fd);
		if (!cqe->res)
			continue;
		if (total(received) + cqe->res > STREAM_MAX)
			complain("stream", "too long");
		received->segments[received->frags++] =
			(struct softaccel_segment) {
				.src = where->off & ~IORING_ZCRX_AREA_MASK,
				.dst = total(received),
				.len = cqe->res,
			};
		received->device += cqe->res;
		if (received->frags == FRAGS)
			break;
	}
	io_uring_cq_advance(&ring, count);
	return next;
}

static void refill(const struct received *received)
{
	unsigned int i, used;

	used = filled - io_uring_smp_load_acquire(refill_head);
	if (used + received->frags > REFILLS)
		complain("memory", "more goes back than there is room for");
	for (i = 0; i < received->frags; i++)
		refills[filled++ % REFILLS] =
			(struct io_uring_zcrx_rqe) {
				.off = received->segments[i].src | token,
				.len = received->segments[i].len,
			};
	io_uring_smp_store_release(refill_tail, filled);
}

void receive_zcrx(int fd, struct memory *pool, struct memory *target,
		  struct received *received)
{
	enum next next = MORE;

	ask(fd);
	while (next != END) {
		check(io_uring_submit_and_wait(&ring, 1), "io_uring_enter");
		begin(received);
		next = take(fd, received);
		copy(target, pool, received->segments, received->frags);
		refill(received);
		if (next == HOST) {
			receive_msg(fd, MSG_DONTWAIT, pool, target, received);
			ask(fd);
		}
	}
}
