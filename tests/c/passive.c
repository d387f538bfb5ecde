/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The target's process has polled for some time. Then it sits in read() and makes no verbs call: its memory is written
 * and read all the same.
 */
#include "rig.h"

#include <string.h>

/* It polls so many times, and sits in read() as many times. */
#define TURNS 10

struct verdict {
	bool written;
	bool added;
	bool alone;
};

static void serve(const struct process *parent)
{
	struct verdict verdict;
	struct end b;
	uint64_t word;
	char done;

	rig_open(0, NULL);
	b = end_join(parent, &usual);
	fill(b.buf + 32768, 8192, 3);
	for (int turn = 0; turn < TURNS; turn++) {
		for (uint64_t i = 0; i < 32; i++)
			post_recv(&b, i, 60000, 1);
		meet(parent);
		for (uint64_t i = 0; i < 32; i++)
			expect(b.recv_cq, i);
		need(quiet(b.recv_cq, 5));
		meet(parent);
		hear(parent->fd, &done, 1);
	}
	meet(parent);
	hear(parent->fd, &done, 1);
	memcpy(&word, b.buf + 16384, sizeof(word));
	verdict = (struct verdict){ .written = filled(b.buf, 10000, 2), .added = word == 500,
				    .alone = becomes(b.buf + 50000, 7) };
	tell(parent->fd, &verdict, sizeof(verdict));
	meet(parent);
	end_drop(&b);
	rig_close();
}

int main(int argc, char **argv)
{
	struct process child = fork_peer();
	struct verdict verdict;
	struct end a;
	bool right = true;
	char done = 1;

	if (child.child == 0) {
		serve(&child);
		return 0;
	}
	rig_open(argc, argv);
	a = end_join(&child, &usual);
	for (int turn = 0; turn < TURNS; turn++) {
		meet(&child);
		for (uint64_t i = 0; i < 32; i++) {
			ask(&a, (struct ask){ .id = i, .op = IBV_WR_SEND, .len = 1 });
			expect(a.send_cq, i);
		}
		meet(&child);
		ask(&a, (struct ask){ .id = 32, .op = IBV_WR_RDMA_WRITE, .len = 1, .to = 60000 });
		expect(a.send_cq, 32);
		tell(child.fd, &done, 1);
	}
	meet(&child);

	fill(a.buf, 10000, 2);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 10000 });
	show_next("write", a.send_cq);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ, .at = 20000, .len = 8192, .to = 32768 });
	show_next("read", a.send_cq);
	yes("  the data is right", filled(a.buf + 20000, 8192, 3));
	for (uint64_t i = 0; i < 500; i++) {
		uint64_t before;

		ask(&a, (struct ask){ .id = i, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .at = 40000, .len = 8, .to = 16384,
				      .compare_add = 1 });
		expect(a.send_cq, i);
		memcpy(&before, a.buf + 40000, sizeof(before));
		right = right && before == i;
	}
	yes("500 atomics one by one", right);

	/* Bursts, each polled for, and then a request that nobody polls for. */
	a.buf[50000] = 7;
	for (uint64_t burst = 0; burst < 20; burst++) {
		for (uint64_t i = 0; i < 32; i++)
			ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_WRITE, .len = 64, .at = 40000, .to = 60000,
					      .unsignaled = i < 31 });
		expect(a.send_cq, 31);
	}
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 1, .at = 50000, .to = 50000 });
	tell(child.fd, &done, 1);
	hear(child.fd, &verdict, sizeof(verdict));
	yes("the target finds what was written", verdict.written);
	yes("the target finds what was added", verdict.added);
	yes("the target finds what followed bursts, with nobody polling", verdict.alone);
	meet(&child);
	join(&child);
	end_drop(&a);
	rig_close();
	return 0;
}
