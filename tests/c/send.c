/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SEND: plain, with immediate data, inline, of no bytes, gathered and scattered over lists. */
#include "rig.h"

#include <arpa/inet.h>
#include <string.h>

static struct end a, b;

static void both(const char *what)
{
	show_next(what, a.send_cq);
	show_next("  received", b.recv_cq);
}

static void plain(void)
{
	fill(a.buf, 1000, 1);
	memset(b.buf, 0xee, 4096);
	post_recv(&b, 10, 7, 2000);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND, .len = 1000 });
	both("1000 bytes into 2000");
	yes("  they are there", filled(b.buf + 7, 1000, 1));
	yes("  nothing else was touched", all(b.buf, 7, 0xee) && all(b.buf + 1007, 4096 - 1007, 0xee));

	post_recv(&b, 11, 0, 1000);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_SEND, .len = 1000 });
	both("1000 bytes into 1000");
}

static void nothing(void)
{
	post_recv(&b, 12, 0, 0);
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_SEND });
	both("no bytes into no bytes");
	post_recv(&b, 13, 0, 100);
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_SEND });
	both("no bytes into 100");
}

static void immediate(void)
{
	struct ibv_wc wc;

	fill(a.buf, 64, 2);
	post_recv(&b, 14, 0, 64);
	ask(&a, (struct ask){ .id = 5, .op = IBV_WR_SEND_WITH_IMM, .len = 64, .imm = 0x12345678 });
	show_next("with immediate data", a.send_cq);
	wc = poll_one(b.recv_cq);
	show("  received", &wc);
	yes("  the value is right", ntohl(wc.imm_data) == 0x12345678);
	yes("  the completion names the queue pair", wc.qp_num == b.qp->qp_num);
	yes("  the data is there", filled(b.buf, 64, 2));

	post_recv(&b, 15, 0, 0);
	ask(&a, (struct ask){ .id = 6, .op = IBV_WR_SEND_WITH_IMM, .imm = 0xffffffff });
	show_next("immediate data alone", a.send_cq);
	wc = poll_one(b.recv_cq);
	show("  received", &wc);
	yes("  the value is right", ntohl(wc.imm_data) == 0xffffffff);
}

/* Elements of 1, 3, 5 ... bytes with gaps between them, on both sides, cut differently. */
static void lists(void)
{
	struct ibv_sge from[16], to[16];
	uint8_t gathered[256], scattered[4096];
	size_t at = 0, len = 0;

	fill(a.buf, 4096, 3);
	memset(b.buf, 0xee, 4096);
	for (int i = 0; i < 16; i++) {
		size_t n = 2 * i + 1;

		from[i] = sge(&a, at, n);
		memcpy(gathered + len, a.buf + at, n);
		at += n + 5;
		len += n;
	}
	for (int i = 0; i < 16; i++)
		to[i] = sge(&b, 100 * i, 31 - 2 * i);
	memset(scattered, 0xee, sizeof(scattered));
	for (size_t i = 0, done = 0; i < 16; done += 31 - 2 * i, i++)
		memcpy(scattered + 100 * i, gathered + done, 31 - 2 * i);
	post_recv_sges(&b, 16, to, 16);
	ask(&a, (struct ask){ .id = 7, .op = IBV_WR_SEND, .sges = from, .num_sge = 16 });
	both("16 elements into 16");
	yes("  every byte is in its place", memcmp(b.buf, scattered, 4096) == 0);

	from[1].length = 0;
	post_recv(&b, 17, 0, 4096);
	ask(&a, (struct ask){ .id = 8, .op = IBV_WR_SEND, .sges = from, .num_sge = 3 });
	both("3 elements, one of them empty");
	yes("  they follow each other", b.buf[0] == gathered[0] && memcmp(b.buf + 1, gathered + 4, 5) == 0);
}

static void inlined(void)
{
	uint8_t local[256];
	struct ibv_sge one = { .addr = (uintptr_t)local, .length = sizeof(local), .lkey = 0 };
	struct ibv_sge two[2] = {
		{ .addr = (uintptr_t)local, .length = 10, .lkey = 1 },
		{ .addr = (uintptr_t)local + 100, .length = 20, .lkey = 2 },
	};

	fill(local, sizeof(local), 4);
	post_recv(&b, 18, 0, 256);
	ask(&a, (struct ask){ .id = 9, .op = IBV_WR_SEND, .flags = IBV_SEND_INLINE, .sges = &one, .num_sge = 1 });
	/* The buffer is the program's again as soon as the call returns. */
	memset(local, 0, sizeof(local));
	both("256 bytes inline, without a key");
	yes("  they are there", filled(b.buf, 256, 4));

	fill(local, sizeof(local), 5);
	post_recv(&b, 19, 0, 256);
	ask(&a, (struct ask){ .id = 10, .op = IBV_WR_SEND_WITH_IMM, .flags = IBV_SEND_INLINE, .sges = two, .num_sge = 2 });
	both("2 elements inline");
	yes("  they follow each other", memcmp(b.buf, local, 10) == 0 && memcmp(b.buf + 10, local + 100, 20) == 0);
	one.length = a.setup.cap.max_inline_data + 1;
	outcome("more inline bytes than agreed",
		try_ask(&a, (struct ask){ .op = IBV_WR_SEND, .flags = IBV_SEND_INLINE, .sges = &one, .num_sge = 1 }));
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	yes("inline data of 256 bytes was granted", a.setup.cap.max_inline_data >= 256);
	plain();
	nothing();
	immediate();
	lists();
	inlined();
	yes("nothing else completed", quiet(a.send_cq, 10) && quiet(a.recv_cq, 0) && quiet(b.send_cq, 0) &&
	    quiet(b.recv_cq, 0));
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
