/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No receive is posted: how often and how long the sender tries again. */
#include "rig.h"

#include <stdio.h>

static void never(const char *what, uint8_t retries, enum ibv_wr_opcode op)
{
	struct setup setup = usual;
	struct end a, b;

	setup.rnr_retry = retries;
	pair_make(&a, &b, &setup);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	ask(&a, (struct ask){ .id = 2, .op = op, .len = 8 });
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_SEND, .len = 8 });
	say("%s", what);
	for (int i = 0; i < 3; i++)
		show_next("  sender", a.send_cq);
	yes("  the sender is in error", end_state(&a) == IBV_QPS_ERR);
	yes("  the receiver is not", end_state(&b) == IBV_QPS_RTS);
	pair_drop(&a, &b);
}

/* Each retry waits for the receiver's timer: 2 retries of 163.84 ms (code 28) are at least 327 ms. */
static void timed(const char *what, bool changed)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTS, .min_rnr_timer = 28 };
	struct setup setup = usual;
	struct end a, b;
	uint64_t start;

	setup.rnr_retry = 2;
	setup.min_rnr_timer = changed ? 1 : attr.min_rnr_timer;
	pair_make(&a, &b, &setup);
	if (changed) {
		need(ibv_modify_qp(b.qp, &attr, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER) == 0);
		/* What is said before this is heard before this is done. */
		ask(&b, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = 8 });
		expect(b.send_cq, 2);
	}
	start = now_ms();
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND, .len = 8 });
	show_next(what, a.send_cq);
	yes("  took as long as the timer says", now_ms() - start >= 327);
	pair_drop(&a, &b);
}

/* A deadline that nothing but time brings about must not be missed, however often one is set. */
static void often(void)
{
	struct setup setup = usual;
	bool right = true;

	setup.rnr_retry = 1;
	setup.min_rnr_timer = 22;
	for (int i = 0; i < 100; i++) {
		struct end a, b;
		struct ibv_wc wc;
		uint64_t start;

		pair_make(&a, &b, &setup);
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND, .len = 8 });
		start = now_ms();
		wc = poll_one(a.send_cq);
		if (wc.status != IBV_WC_RNR_RETRY_EXC_ERR) {
			fprintf(stderr, "pair %d, after %d ms: %s\n", i, (int)(now_ms() - start),
				ibv_wc_status_str(wc.status));
			right = false;
		}
		pair_drop(&a, &b);
	}
	yes("100 queue pairs, one after the other, give up", right);
}

static void late(const char *what, uint8_t retries, uint8_t timer, enum ibv_wr_opcode op)
{
	struct setup setup = usual;
	struct end a, b;

	setup.rnr_retry = retries;
	setup.min_rnr_timer = timer;
	pair_make(&a, &b, &setup);
	fill(a.buf, 64, 1);
	ask(&a, (struct ask){ .id = 1, .op = op, .len = 64 });
	say("%s", what);
	yes("  it waits", quiet(a.send_cq, 200));
	post_recv(&b, 11, 0, 64);
	show_next("  receiver", b.recv_cq);
	show_next("  sender", a.send_cq);
	yes("  the data is there", filled(b.buf, 64, 1));
	pair_drop(&a, &b);
}

/* 64 sends against 4 receives at a time: all arrive, in order. */
static void starved(void)
{
	struct end a, b;
	bool right = true;

	pair_make(&a, &b, &usual);
	for (uint64_t i = 0; i < 64; i++) {
		fill(a.buf + i * 64, 64, i);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_SEND, .at = i * 64, .len = 64 });
	}
	for (uint64_t i = 0; i < 64; i += 4) {
		for (uint64_t j = i; j < i + 4; j++)
			post_recv(&b, j, j * 64, 64);
		for (uint64_t j = i; j < i + 4; j++) {
			expect(b.recv_cq, j);
			right = right && filled(b.buf + j * 64, 64, j);
		}
	}
	for (uint64_t i = 0; i < 64; i++)
		expect(a.send_cq, i);
	yes("64 sends against 4 receives at a time arrive in order", right);
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	never("no retries", 0, IBV_WR_SEND);
	never("2 retries", 2, IBV_WR_SEND);
	never("no retries of a write with immediate data", 0, IBV_WR_RDMA_WRITE_WITH_IMM);
	timed("2 retries with a long timer", false);
	timed("2 retries with a timer that has become long", true);
	often();
	late("retries for ever, and a receive posted late", 7, 12, IBV_WR_SEND);
	late("6 retries of a long timer, and a receive posted late", 6, 28, IBV_WR_SEND_WITH_IMM);
	starved();
	rig_close();
	return 0;
}
