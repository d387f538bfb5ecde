/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The peer stands still while much is on its way to it. A request that has been
 * flushed gives its memory back: whatever the program writes there then, the
 * peer sees what was posted, or nothing. So does a deregistration: who was
 * reading there learns that it cannot.
 */
#include "rig.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS 4
#define LENGTH (16 << 20) /* more than two sockets hold */

static const struct setup large = {
	.access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
	.timeout = 20,
	.retry_cnt = 7,
	.rnr_retry = 7,
	.rd_atomic = 1,
	.cap = { .max_send_wr = 16, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
	.memory = REQUESTS * LENGTH,
	.cqe = 16,
};

static void serve(const struct process *parent)
{
	struct ibv_wc wc;
	struct end b;
	bool right = true;

	rig_open(0, NULL);
	b = end_join(parent, &large);
	meet(parent);
	/* This fails when all that the peer had to say has come. */
	ask(&b, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	wc = poll_one(b.send_cq);
	need(wc.status != IBV_WC_SUCCESS);
	for (size_t i = 0; i < large.memory && right; i++)
		right = b.buf[i] == 0 || b.buf[i] == 'p';
	tell(parent->fd, &right, sizeof(right));
	end_drop(&b);
	rig_close();
}

static uint8_t draining(const struct end *end)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;

	need(ibv_query_qp(end->qp, &attr, IBV_QP_STATE, &init) == 0);
	need(attr.qp_state == IBV_QPS_SQD);
	return attr.sq_draining;
}

static void read_and_stop(const struct process *parent)
{
	struct end b;
	bool failed;

	rig_open(0, NULL);
	b = end_join(parent, &large);
	ask(&b, (struct ask){ .id = 0, .op = IBV_WR_RDMA_READ, .len = 8 });
	expect(b.send_cq, 0);
	ask(&b, (struct ask){ .id = 1, .op = IBV_WR_RDMA_READ, .len = LENGTH });
	need(raise(SIGSTOP) == 0);
	failed = poll_one(b.send_cq).status != IBV_WC_SUCCESS;
	tell(parent->fd, &failed, sizeof(failed));
	end_drop(&b);
	rig_close();
}

static void revoked(struct process child)
{
	bool failed;
	struct end a = end_join(&child, &large);

	wait_stopped(&child);
	/* Time enough for the answer to fill what lies between. */
	need(quiet(a.send_cq, 200));
	outcome("deregistered while it is read", ibv_dereg_mr(a.mr));
	continue_peer(&child);
	hear(child.fd, &failed, sizeof(failed));
	yes("  the peer learns that", failed);
	join(&child);
	a.mr = ibv_reg_mr(a.pd, a.buf, large.memory, large.access);
	need(a.mr);
	end_drop(&a);
}

static void flushed(struct process child)
{
	bool all_flushed = true, right;
	struct end a = end_join(&child, &large);

	ask(&a, (struct ask){ .id = 99, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("connected", a.send_cq);
	stop_peer(&child);
	ask(&a, (struct ask){ .id = 100, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	outcome("drain", end_to(&a, IBV_QPS_SQD));
	say("  draining: %d", draining(&a));
	continue_peer(&child);
	show_next("  the peer goes on", a.send_cq);
	say("  draining: %d", draining(&a));
	outcome("on again", end_to(&a, IBV_QPS_RTS));

	stop_peer(&child);
	memset(a.buf, 'p', large.memory);
	for (int i = 0; i < REQUESTS; i++)
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_WRITE, .at = (size_t)i * LENGTH, .len = LENGTH,
				      .to = (size_t)i * LENGTH });
	outcome("to ERR", end_to(&a, IBV_QPS_ERR));
	for (int i = 0; i < REQUESTS; i++)
		all_flushed &= poll_one(a.send_cq).status == IBV_WC_WR_FLUSH_ERR;
	yes("  all requests are flushed", all_flushed);
	memset(a.buf, 'x', large.memory);
	continue_peer(&child);
	meet(&child);
	hear(child.fd, &right, sizeof(right));
	yes("  the peer sees what was posted, or nothing", right);
	join(&child);
	end_drop(&a);
}

static void deregistered(struct process child)
{
	struct end a = end_join(&child, &large);
	bool right;

	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	expect(a.send_cq, 1);
	stop_peer(&child);
	memset(a.buf, 'p', large.memory);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = LENGTH });
	outcome("deregistered while it is written from", ibv_dereg_mr(a.mr));
	memset(a.buf, 'x', large.memory);
	continue_peer(&child);
	yes("  the request fails", poll_one(a.send_cq).status != IBV_WC_SUCCESS);
	meet(&child);
	hear(child.fd, &right, sizeof(right));
	yes("  the peer sees what was posted, or nothing", right);
	join(&child);
	a.mr = ibv_reg_mr(a.pd, a.buf, large.memory, large.access);
	need(a.mr);
	end_drop(&a);
}

static struct process start(void (*serve)(const struct process *))
{
	struct process child = fork_peer();

	if (child.child == 0) {
		serve(&child);
		exit(0);
	}
	return child;
}

int main(int argc, char **argv)
{
	struct process first = start(serve), second = start(read_and_stop), third = start(serve);

	rig_open(argc, argv);
	flushed(first);
	revoked(second);
	deregistered(third);
	rig_close();
	return 0;
}
