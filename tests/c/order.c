/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Order: of completions, of memory, behind a fence; and what an unsignaled request leaves behind. */
#include "rig.h"

#include <string.h>

static struct end a, b;

static void mixed(void)
{
	static const enum ibv_wr_opcode ops[] = {
		IBV_WR_RDMA_READ, IBV_WR_SEND, IBV_WR_RDMA_WRITE, IBV_WR_ATOMIC_FETCH_AND_ADD,
		IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_RDMA_WRITE,
	};
	bool ordered = true, received = true;
	uint64_t receives = 0;

	for (uint64_t i = 0; i < 64; i++)
		post_recv(&b, i, 4096, 1024);
	for (uint64_t i = 0; i < 60; i++) {
		enum ibv_wr_opcode op = ops[i % COUNT(ops)];
		size_t len = op == IBV_WR_ATOMIC_FETCH_AND_ADD ? 8 : 1 + i * 17 % 1000;

		ask(&a, (struct ask){ .id = i, .op = op, .len = len });
		receives += op == IBV_WR_SEND || op == IBV_WR_SEND_WITH_IMM || op == IBV_WR_RDMA_WRITE_WITH_IMM;
	}
	for (uint64_t i = 0; i < 60; i++)
		ordered = ordered && expect(a.send_cq, i).qp_num == a.qp->qp_num;
	for (uint64_t i = 0; i < receives; i++)
		received = received && expect(b.recv_cq, i).qp_num == b.qp->qp_num;
	yes("60 requests of all kinds complete in order", ordered);
	yes("so do the receives they consume", received);
	yes("and no others", quiet(b.recv_cq, 10));
	/* The receives left over are for the tests below: see them off. */
	for (uint64_t i = receives; i < 64; i++) {
		ask(&a, (struct ask){ .id = 99, .op = IBV_WR_SEND });
		expect(a.send_cq, 99);
		expect(b.recv_cq, i);
	}
}

/* A queue's room comes back when a later, signaled request completes. */
static void unsignaled(void)
{
	uint32_t room = a.setup.cap.max_send_wr;
	bool alone = true;

	for (uint64_t round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < room; i++)
			ask(&a, (struct ask){ .id = round * 1000 + i, .op = IBV_WR_RDMA_WRITE, .len = 32,
					      .unsignaled = i < room - 1 });
		expect(a.send_cq, round * 1000 + room - 1);
		alone = alone && quiet(a.send_cq, 0);
	}
	yes("full queues of unsignaled requests retire with the signaled one behind", alone);
}

static void all_signaled(void)
{
	struct setup setup = usual;
	struct end c, d;

	setup.sig_all = true;
	pair_make(&c, &d, &setup);
	ask(&c, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8, .unsignaled = true });
	show_next("sq_sig_all signals a request without the flag", c.send_cq);
	pair_drop(&c, &d);
}

/* Without the fence the SEND may take its data before the READ has brought it. */
static void fence(void)
{
	bool right = true;

	for (uint32_t i = 0; i < 50; i++) {
		fill(b.buf, 16384, i);
		memset(a.buf, 0, 16384);
		post_recv(&b, i, 32768, 16384);
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_READ, .len = 16384, .unsignaled = true });
		ask(&a, (struct ask){ .id = 2, .op = IBV_WR_SEND, .len = 16384, .flags = IBV_SEND_FENCE });
		expect(a.send_cq, 2);
		expect(b.recv_cq, i);
		right = right && filled(b.buf + 32768, 16384, i);
	}
	yes("a fenced send carries what the read before it fetched", right);
}

/* A program that waits for a flag written after the data must find all of the data. */
static void flag(void)
{
	bool right = true;

	for (uint32_t i = 1; i < 100; i++) {
		size_t len = 1 + (i * 613) % 20000;

		fill(a.buf, len, i);
		a.buf[32768] = i;
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = len, .unsignaled = true });
		ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .at = 32768, .len = 1, .to = 32768 });
		need(becomes(b.buf + 32768, i));
		right = right && filled(b.buf, len, i);
		expect(a.send_cq, 2);
	}
	yes("a flag written after the data is seen after the data", right);
}

/* Likewise for the last byte of one write. */
static void last_byte(void)
{
	bool right = true;

	for (uint32_t i = 1; i < 100; i++) {
		size_t len = 1 + (i * 613) % 20000;

		memset(b.buf, 0, len);
		fill(a.buf, len - 1, i);
		a.buf[len - 1] = 0x80;
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = len });
		need(becomes(b.buf + len - 1, 0x80));
		right = right && filled(b.buf, len - 1, i);
		expect(a.send_cq, 1);
	}
	yes("the last byte of a write is seen after the others", right);
	say("nothing is promised of those: %d",
	    ibv_query_qp_data_in_order(a.qp, IBV_WR_RDMA_WRITE, 0));
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	mixed();
	unsignaled();
	all_signaled();
	fence();
	flag();
	last_byte();
	yes("nothing else completed", quiet(a.send_cq, 10) && quiet(b.recv_cq, 0));
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
