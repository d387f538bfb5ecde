/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The peer's process is killed: what was under way fails, in order, and nobody else notices. */
#include "rig.h"

int main(int argc, char **argv)
{
	struct process child = fork_peer();
	struct end a, c, d;
	uint64_t start;
	bool flushed = true;

	if (child.child == 0)
		serve_until_killed(&child);
	rig_open(argc, argv);
	a = end_join(&child, &hasty);
	pair_make(&c, &d, &usual);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("while the peer lives", a.send_cq);
	for (uint64_t i = 0; i < 4; i++)
		post_recv(&a, 100 + i, 0, 64);

	kill_peer(&child);
	start = now_ms();
	for (uint64_t i = 2; i < 10; i++)
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_WRITE, .len = 64, .unsignaled = i % 2 });
	show_next("when it was killed", a.send_cq);
	/* Its budget is (3 + 1) * 67.1 ms; and its end may show at once. */
	yes("  in less than a second", now_ms() - start < 1000);
	for (uint64_t i = 3; i < 10; i++) {
		struct ibv_wc wc = poll_one(a.send_cq);

		flushed = flushed && wc.wr_id == i && wc.status == IBV_WC_WR_FLUSH_ERR;
	}
	yes("  everything behind is flushed in order, unsignaled or not", flushed);
	for (uint64_t i = 100; i < 104; i++) {
		struct ibv_wc wc = poll_one(a.recv_cq);

		flushed = flushed && wc.wr_id == i && wc.status == IBV_WC_WR_FLUSH_ERR;
	}
	yes("  so are the receives", flushed);
	yes("  it is in error", end_state(&a) == IBV_QPS_ERR);
	ask(&a, (struct ask){ .id = 10, .op = IBV_WR_SEND, .len = 8 });
	show_next("  what is posted now", a.send_cq);
	yes("  nothing else completes", quiet(a.send_cq, 20) && quiet(a.recv_cq, 0));

	ask(&c, (struct ask){ .id = 11, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("another queue pair", c.send_cq);
	pair_drop(&c, &d);
	end_drop(&a);
	rig_close();
	return 0;
}
