/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What goes wrong at the peer or in local memory: the status on both sides, the state of
 * both queue pairs, and the flushing of everything behind, in order.
 */
#include "rig.h"

#define REMOTE_ALL (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | \
		    IBV_ACCESS_REMOTE_ATOMIC)

static const char *state(const struct end *end)
{
	switch (end_state(end)) {
	case IBV_QPS_RTS: return "ready";
	case IBV_QPS_ERR: return "in error";
	default: return "in another state";
	}
}

/*
 * The request, with one before it that succeeds, and two behind it, the first of which is unsignaled;
 * the requester has two receives posted, the responder one.
 */
static void fails(const char *what, struct end *a, struct end *b, struct ask request)
{
	fill(a->buf, 64, 1);
	post_recv(a, 11, 0, 8);
	post_recv(a, 12, 0, 8);
	post_recv(b, 21, 0, 32);
	ask(a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	expect(a->send_cq, 1);
	request.id = 2;
	ask(a, request);
	/* Either may find the queue pair in error already, and is then flushed all the same. */
	ask(a, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE, .len = 8, .unsignaled = true });
	ask(a, (struct ask){ .id = 4, .op = IBV_WR_SEND, .len = 8 });

	say("%s", what);
	for (int i = 0; i < 3; i++)
		show_next("  requester", a->send_cq);
	for (int i = 0; i < 2; i++)
		show_next("  requester", a->recv_cq);
	show_next("  responder", b->recv_cq);
	say("  requester is %s, responder is %s", state(a), state(b));
	pair_drop(a, b);
}

static void wrong_key(void)
{
	struct end a, b;

	pair_make(&a, &b, &usual);
	fails("write by a key that does not exist", &a, &b,
	      (struct ask){ .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = b.mr->rkey ^ 0x00a5a500 });
	pair_make(&a, &b, &usual);
	fails("read by a key that does not exist", &a, &b,
	      (struct ask){ .op = IBV_WR_RDMA_READ, .len = 8, .rkey = b.mr->rkey ^ 0x00a5a500 });
	pair_make(&a, &b, &usual);
	fails("atomic by a key that does not exist", &a, &b,
	      (struct ask){ .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .len = 8, .rkey = b.mr->rkey ^ 0x00a5a500 });
}

static void out_of_range(void)
{
	struct end a, b;

	pair_make(&a, &b, &usual);
	fails("write that ends a byte behind the region", &a, &b,
	      (struct ask){ .op = IBV_WR_RDMA_WRITE, .len = 8, .to = usual.memory - 7 });
	pair_make(&a, &b, &usual);
	fails("write that begins a byte before the region", &a, &b,
	      (struct ask){ .op = IBV_WR_RDMA_WRITE, .len = 8, .to = -1 });
	pair_make(&a, &b, &usual);
	fails("read that ends a byte behind the region", &a, &b,
	      (struct ask){ .op = IBV_WR_RDMA_READ, .len = 8, .to = usual.memory - 7 });
	pair_make(&a, &b, &usual);
	fails("write at the last addresses there are", &a, &b,
	      (struct ask){ .op = IBV_WR_RDMA_WRITE, .len = 8, .remote_addr = UINT64_MAX - 3 });
}

/* A second region of b's memory, with these rights and in this domain. */
static void region(const char *what, enum ibv_wr_opcode op, struct ibv_pd *pd, int access)
{
	struct end a, b;
	struct ibv_mr *mr;

	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(pd ? pd : b.pd, b.buf, 4096, access);
	need(mr);
	fill(a.buf, 64, 1);
	post_recv(&b, 21, 0, 32);
	ask(&a, (struct ask){ .id = 2, .op = op, .len = 8, .rkey = mr->rkey });
	say("%s", what);
	show_next("  requester", a.send_cq);
	show_next("  responder", b.recv_cq);
	say("  requester is %s, responder is %s", state(&a), state(&b));
	yes("  nothing was written", all(b.buf, 64, 0));
	need(ibv_dereg_mr(mr) == 0);
	pair_drop(&a, &b);
}

static void rights(void)
{
	struct ibv_pd *other = ibv_alloc_pd(device);

	need(other);
	region("write without the region's right", IBV_WR_RDMA_WRITE, NULL,
	       IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
	region("read without the region's right", IBV_WR_RDMA_READ, NULL,
	       IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	region("atomic without the region's right", IBV_WR_ATOMIC_CMP_AND_SWP, NULL,
	       IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
	region("write to a region of another domain", IBV_WR_RDMA_WRITE, other, REMOTE_ALL);
	need(ibv_dealloc_pd(other) == 0);
}

/* The queue pair itself may do less than the region allows. */
static void queue_pair(const char *what, enum ibv_wr_opcode op, unsigned int access)
{
	struct setup setup = usual;
	struct end a, b;
	struct ibv_mr *mr;

	setup.access = access;
	a = end_make(&usual);
	b = end_make(&setup);
	end_connect(&a, &b.self);
	end_connect(&b, &a.self);
	mr = ibv_reg_mr(b.pd, b.buf, 4096, REMOTE_ALL);
	need(mr);
	ask(&a, (struct ask){ .id = 2, .op = op, .len = 8, .rkey = mr->rkey });
	say("%s", what);
	show_next("  requester", a.send_cq);
	need(ibv_dereg_mr(mr) == 0);
	pair_drop(&a, &b);
}

static void too_long(void)
{
	struct end a, b;

	pair_make(&a, &b, &usual);
	fails("send of a byte more than the receive holds", &a, &b, (struct ask){ .op = IBV_WR_SEND, .len = 33 });
}

/* The requester's own memory: found before anything is sent, or after data has come back. */
static void local(const char *what, enum ibv_wr_opcode op, int access)
{
	struct end a, b;
	struct ibv_mr *mr;
	uint32_t lkey;

	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(a.pd, a.buf, 4096, access);
	need(mr);
	lkey = mr->lkey;
	if (!access)
		lkey ^= 0x00a5a500;
	fill(b.buf, 64, 2);
	post_recv(&b, 21, 100, 64);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8, .to = 200 });
	ask(&a, (struct ask){ .id = 2, .op = op, .len = 8, .lkey = lkey });
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE, .len = 8, .to = 300 });
	say("%s", what);
	for (int i = 0; i < 3; i++)
		show_next("  requester", a.send_cq);
	say("  requester is %s", state(&a));
	need(ibv_dereg_mr(mr) == 0);
	pair_drop(&a, &b);
}

/* The responder's own memory, where a SEND should go. */
static void receive(const char *what, int access)
{
	struct end a, b;
	struct ibv_mr *mr;
	struct ibv_sge one;

	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(b.pd, b.buf, 4096, access);
	need(mr);
	one = (struct ibv_sge){ .addr = (uintptr_t)b.buf, .length = 64, .lkey = mr->lkey };
	if (!access)
		one.lkey ^= 0x00a5a500;
	post_recv_sges(&b, 21, &one, 1);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND, .len = 64 });
	say("%s", what);
	show_next("  requester", a.send_cq);
	show_next("  responder", b.recv_cq);
	say("  requester is %s, responder is %s", state(&a), state(&b));
	yes("  nothing was written", all(b.buf, 64, 0));
	need(ibv_dereg_mr(mr) == 0);
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	wrong_key();
	out_of_range();
	rights();
	queue_pair("write, though the queue pair does not take any", IBV_WR_RDMA_WRITE,
		   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC);
	queue_pair("read, though the queue pair does not take any", IBV_WR_RDMA_READ,
		   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC);
	queue_pair("atomic, though the queue pair does not take any", IBV_WR_ATOMIC_FETCH_AND_ADD,
		   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
	too_long();
	local("send by a local key that does not exist", IBV_WR_SEND, 0);
	local("write by a local key that does not exist", IBV_WR_RDMA_WRITE, 0);
	local("read by a local key that does not exist", IBV_WR_RDMA_READ, 0);
	local("read into a region that may not be written", IBV_WR_RDMA_READ, IBV_ACCESS_REMOTE_READ);
	receive("receive by a local key that does not exist", 0);
	receive("receive into a region that may not be written", IBV_ACCESS_REMOTE_READ);
	rig_close();
	return 0;
}
