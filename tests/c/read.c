/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RDMA READ: at any offset, scattered, of no bytes, more at once than may be in flight. */
#include "rig.h"

#include <string.h>

static struct end a, b;

static void offsets(void)
{
	static const size_t lengths[] = { 1, 3, 8, 64, 1023, 1024, 1025, 4096, 4097, 9000, 20000 };
	bool right = true, untouched = true, counted = true;

	for (size_t i = 0; i < COUNT(lengths); i++) {
		size_t len = lengths[i], at = 100 + i, to = 50 + 3 * i;

		fill(b.buf + to, len, i);
		memset(a.buf, 0xee, 32768);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_READ, .at = at, .len = len, .to = to });
		counted = counted && expect(a.send_cq, i).byte_len == len;
		right = right && filled(a.buf + at, len, i);
		untouched = untouched && all(a.buf, at, 0xee) && all(a.buf + at + len, 32768 - at - len, 0xee);
	}
	yes("reads of many lengths at many offsets fetch the right bytes", right);
	yes("and touch nothing else", untouched);
	yes("the completions count the bytes", counted);
}

static void scattered(void)
{
	struct ibv_sge to[16];
	uint8_t wanted[4096];
	size_t len = 0;

	fill(b.buf, 4096, 3);
	memset(a.buf, 0xee, 4096);
	memset(wanted, 0xee, sizeof(wanted));
	for (size_t i = 0; i < 16; i++) {
		to[i] = sge(&a, 200 * (15 - i) + i, 2 * i + 1);
		memcpy(wanted + 200 * (15 - i) + i, b.buf + len, 2 * i + 1);
		len += 2 * i + 1;
	}
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_READ, .sges = to, .num_sge = 16 });
	show_next("into 16 elements", a.send_cq);
	yes("  every byte is in its place", memcmp(a.buf, wanted, 4096) == 0);
}

static void nothing(void)
{
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ });
	show_next("no bytes", a.send_cq);
}

static void many(void)
{
	bool right = true;

	fill(b.buf, 32768, 4);
	memset(a.buf, 0, 32768);
	for (size_t i = 0; i < 64; i++)
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_READ, .at = 512 * i, .len = 512, .to = 512 * i });
	for (size_t i = 0; i < 64; i++)
		right = right && expect(a.send_cq, i).opcode == IBV_WC_RDMA_READ;
	yes("64 reads at once complete in order", right);
	yes("  every byte is in its place", filled(a.buf, 32768, 4));
}

/* Posted together: the READ must fetch what the WRITE before it has put there. */
static void after_write(void)
{
	bool right = true;

	for (uint32_t i = 0; i < 50; i++) {
		fill(a.buf, 8192, i);
		memset(a.buf + 16384, 0, 8192);
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8192, .unsignaled = true });
		ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ, .at = 16384, .len = 8192 });
		expect(a.send_cq, 2);
		right = right && filled(a.buf + 16384, 8192, i);
	}
	yes("a read fetches what the write before it wrote", right);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	offsets();
	scattered();
	nothing();
	many();
	after_write();
	yes("nothing else completed", quiet(a.send_cq, 10) && quiet(a.recv_cq, 0) && quiet(b.send_cq, 0) &&
	    quiet(b.recv_cq, 0));
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
