/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A queue pair connected to itself. NCCL reads from its own memory so, to flush what was written to it. */
#include "rig.h"

#include <arpa/inet.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct end a;
	struct ibv_wc wc;

	rig_open(argc, argv);
	a = end_make(&usual);
	end_connect(&a, &a.self);

	fill(a.buf, 4096, 1);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_READ, .at = 8192, .len = 4096 });
	show_next("read", a.send_cq);
	yes("  the data is there", filled(a.buf + 8192, 4096, 1));
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ, .at = 0, .len = 1, .to = 5 });
	show_next("read of one byte", a.send_cq);
	fill(a.buf, 4096, 2);
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE, .len = 4096, .to = 16384 });
	show_next("write", a.send_cq);
	yes("  the data is there", filled(a.buf + 16384, 4096, 2));
	post_recv(&a, 11, 32768, 4096);
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_SEND_WITH_IMM, .len = 4096, .imm = 77 });
	show_next("send", a.send_cq);
	wc = poll_one(a.recv_cq);
	show("  received", &wc);
	yes("  the data is there", ntohl(wc.imm_data) == 77 && filled(a.buf + 32768, 4096, 2));
	memset(a.buf, 0, 64);
	ask(&a, (struct ask){ .id = 5, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .at = 8, .len = 8, .to = 16, .compare_add = 3 });
	show_next("add", a.send_cq);
	yes("  it is added", a.buf[16] == 3);
	for (uint64_t i = 0; i < 1000; i++) {
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_READ, .at = 8192, .len = 64 });
		expect(a.send_cq, i);
	}
	say("1000 reads one by one");

	post_recv(&a, 12, 0, 64);
	ask(&a, (struct ask){ .id = 6, .op = IBV_WR_RDMA_WRITE, .len = 64, .rkey = a.mr->rkey ^ 0x00a5a500 });
	show_next("write by a key that does not exist", a.send_cq);
	show_next("  the receive", a.recv_cq);
	end_drop(&a);
	rig_close();
	return 0;
}
