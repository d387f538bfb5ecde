/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Compare-and-swap and fetch-and-add on 8 aligned bytes. */
#include "rig.h"

#include <string.h>

static uint64_t word(const struct end *end, size_t at)
{
	uint64_t value;

	memcpy(&value, end->buf + at, sizeof(value));
	return value;
}

static void set(struct end *end, size_t at, uint64_t value)
{
	memcpy(end->buf + at, &value, sizeof(value));
}

static void swap(struct end *a, struct end *b, const char *what, uint64_t has, uint64_t compare, uint64_t swap)
{
	set(b, 16, has);
	memset(a->buf, 0xee, 64);
	ask(a, (struct ask){ .id = 1, .op = IBV_WR_ATOMIC_CMP_AND_SWP, .at = 8, .len = 8, .to = 16,
			     .compare_add = compare, .swap = swap });
	show_next(what, a->send_cq);
	yes("  it gives what was there", word(a, 8) == has);
	yes("  what is there is right", word(b, 16) == (has == compare ? swap : has));
	yes("  nothing else was touched", all(a->buf, 8, 0xee) && all(a->buf + 16, 48, 0xee) &&
	    all(b->buf, 16, 0) && all(b->buf + 24, 40, 0));
}

static void add(struct end *a, struct end *b, const char *what, uint64_t has, uint64_t add)
{
	set(b, 16, has);
	ask(a, (struct ask){ .id = 2, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .at = 8, .len = 8, .to = 16,
			     .compare_add = add });
	show_next(what, a->send_cq);
	yes("  it gives what was there", word(a, 8) == has);
	yes("  what is there is right", word(b, 16) == has + add);
}

static void many(struct end *a, struct end *b)
{
	bool ordered = true;

	set(b, 16, 0);
	for (size_t i = 0; i < 64; i++)
		ask(a, (struct ask){ .id = i, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .at = 8 * i, .len = 8, .to = 16,
				     .compare_add = 3 });
	for (size_t i = 0; i < 64; i++)
		expect(a->send_cq, i);
	for (size_t i = 0; i < 64; i++)
		ordered = ordered && word(a, 8 * i) == 3 * i;
	yes("64 at once are executed in order", ordered && word(b, 16) == 192);
}

/* Two requesters, one word: nothing is lost. */
static void contended(void)
{
	struct end one, two, to_one, to_two;
	uint32_t rkey;

	pair_make(&one, &to_one, &usual);
	pair_make(&two, &to_two, &usual);
	/* The word is in the memory of to_one; to_two gets its own region of it. */
	struct ibv_mr *shared = ibv_reg_mr(to_two.pd, to_one.buf, 4096, usual.access);

	need(shared);
	rkey = shared->rkey;
	for (size_t round = 0; round < 20; round++) {
		for (size_t i = 0; i < 32; i++) {
			ask(&one, (struct ask){ .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .len = 8, .compare_add = 1 });
			ask(&two, (struct ask){ .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .len = 8, .compare_add = 1 << 16,
						.rkey = rkey, .remote_addr = to_one.self.addr });
		}
		for (size_t i = 0; i < 32; i++) {
			expect(one.send_cq, 0);
			expect(two.send_cq, 0);
		}
	}
	yes("two requesters add to one word and nothing is lost", word(&to_one, 0) == (640ull << 16) + 640);
	need(ibv_dereg_mr(shared) == 0);
	pair_drop(&one, &to_one);
	pair_drop(&two, &to_two);
}

static void misaligned(const char *what, enum ibv_wr_opcode op)
{
	struct end a, b;
	struct ask request = { .id = 3, .op = op, .len = 8, .to = 20, .compare_add = 0, .swap = 1 };
	int error;

	pair_make(&a, &b, &usual);
	error = try_ask(&a, request);
	/* rdma-core's provider for rxe sees it at once, and does not post it. */
	need(lenient(error, EINVAL, 0) == 0);
	if (error)
		say("%s: request 3: remote invalid request error", what);
	else
		show_next(what, a.send_cq);
	yes("  nothing was changed", all(b.buf, 64, 0));
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	struct end a, b;

	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	swap(&a, &b, "swap of an equal word", 0x1122334455667788, 0x1122334455667788, 0xfedcba9876543210);
	swap(&a, &b, "swap of another word", 5, 6, 7);
	swap(&a, &b, "swap of a word equal in its low half only", 0x100000001, 1, 7);
	add(&a, &b, "add", 40, 2);
	add(&a, &b, "add that wraps", UINT64_MAX - 1, 5);
	add(&a, &b, "add that carries over the halves", 0xffffffff, 1);
	add(&a, &b, "add of nothing", 9, 0);
	many(&a, &b);
	pair_drop(&a, &b);
	contended();
	misaligned("misaligned swap", IBV_WR_ATOMIC_CMP_AND_SWP);
	misaligned("misaligned add", IBV_WR_ATOMIC_FETCH_AND_ADD);
	rig_close();
	return 0;
}
