/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RDMA WRITE: at any offset, gathered, inline, of no bytes, with immediate data. */
#include "rig.h"

#include <arpa/inet.h>
#include <string.h>

static struct end a, b;

static void offsets(void)
{
	static const size_t lengths[] = { 1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 1023, 1024, 1025, 4095, 4096, 4097, 9000 };
	bool right = true, untouched = true;

	for (size_t i = 0; i < COUNT(lengths); i++) {
		for (size_t shift = 0; shift < 9; shift += 3) {
			size_t len = lengths[i], at = 100 + shift, to = 200 + 2 * shift;

			fill(a.buf + at, len, i + shift);
			memset(b.buf, 0xee, 16384);
			ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_WRITE, .at = at, .len = len, .to = to });
			expect(a.send_cq, i);
			right = right && filled(b.buf + to, len, i + shift);
			untouched = untouched && all(b.buf, to, 0xee) &&
				all(b.buf + to + len, 16384 - to - len, 0xee);
		}
	}
	yes("writes of many lengths at many offsets arrive", right);
	yes("and touch nothing else", untouched);
	yes("the target gets no completion", quiet(b.recv_cq, 10) && quiet(b.send_cq, 0));
}

static void ends_of_memory(void)
{
	size_t last = a.setup.memory - 1;

	a.buf[0] = 0x5a;
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 1, .to = last });
	show_next("the last byte", a.send_cq);
	yes("  it is there", b.buf[last] == 0x5a);
	fill(a.buf, a.setup.memory, 6);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = a.setup.memory });
	show_next("all of it", a.send_cq);
	yes("  it is there", filled(b.buf, a.setup.memory, 6));
}

static void gathered(void)
{
	struct ibv_sge from[16];
	uint8_t wanted[16 * 32];
	size_t len = 0;

	fill(a.buf, 4096, 7);
	for (size_t i = 0; i < 16; i++) {
		from[i] = sge(&a, 200 * (15 - i), 2 * i + 1);
		memcpy(wanted + len, a.buf + 200 * (15 - i), 2 * i + 1);
		len += 2 * i + 1;
	}
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE, .to = 33, .sges = from, .num_sge = 16 });
	show_next("16 elements", a.send_cq);
	yes("  they follow each other", memcmp(b.buf + 33, wanted, len) == 0);
}

static void nothing(void)
{
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_RDMA_WRITE });
	show_next("no bytes", a.send_cq);
	/* The key of a request without data is not looked at: C9-88 of the InfiniBand specification. */
	ask(&a, (struct ask){ .id = 5, .op = IBV_WR_RDMA_WRITE, .rkey = b.mr->rkey ^ 0x5a5a5a, .remote_addr = 1 });
	show_next("no bytes by a wrong key", a.send_cq);
}

static void inlined(void)
{
	uint8_t local[200];
	struct ibv_sge one = { .addr = (uintptr_t)local, .length = sizeof(local) };

	fill(local, sizeof(local), 8);
	ask(&a, (struct ask){ .id = 6, .op = IBV_WR_RDMA_WRITE, .flags = IBV_SEND_INLINE, .sges = &one, .num_sge = 1 });
	memset(local, 0, sizeof(local));
	show_next("200 bytes inline", a.send_cq);
	yes("  they are there", filled(b.buf, 200, 8));
}

static void immediate(void)
{
	struct ibv_wc wc;

	fill(a.buf, 5000, 9);
	post_recv(&b, 10, 0, 0);
	ask(&a, (struct ask){ .id = 7, .op = IBV_WR_RDMA_WRITE_WITH_IMM, .len = 5000, .to = 77, .imm = 0xabcd1234 });
	wc = poll_one(b.recv_cq);
	show("with immediate data", &wc);
	yes("  the value is right", ntohl(wc.imm_data) == 0xabcd1234);
	/* Looked at before our own completion: the receiver's says that the data is there. */
	yes("  the data is there", filled(b.buf + 77, 5000, 9));
	show_next("  sent", a.send_cq);

	memset(b.buf, 0xee, 4096);
	post_recv(&b, 11, 1000, 100);
	ask(&a, (struct ask){ .id = 8, .op = IBV_WR_RDMA_WRITE_WITH_IMM, .len = 300, .imm = 1 });
	show_next("more bytes than the receive it consumes has", b.recv_cq);
	yes("  which stays untouched", all(b.buf + 1000, 100, 0xee));
	show_next("  sent", a.send_cq);

	post_recv(&b, 12, 0, 0);
	ask(&a, (struct ask){ .id = 9, .op = IBV_WR_RDMA_WRITE_WITH_IMM, .imm = 2, .rkey = b.mr->rkey ^ 0x5a5a5a });
	show_next("immediate data alone", b.recv_cq);
	show_next("  sent", a.send_cq);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	offsets();
	ends_of_memory();
	gathered();
	nothing();
	inlined();
	immediate();
	yes("nothing else completed", quiet(a.send_cq, 10) && quiet(a.recv_cq, 0) && quiet(b.send_cq, 0) &&
	    quiet(b.recv_cq, 0));
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
