/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Messages that stay where they come (include/dmverbs.h). The memory here is the host's, so that they come there; what
 * comes into the memory of a device is seen in a virtual machine (tests/devmem).
 */
#include "rig.h"

#include <dmverbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BIG = 3000001 };

static struct end a, b;

/* Takes the next message, which must be of this receive and of `len` bytes with this seed, and gives its handle. */
static uint64_t take(uint64_t wr_id, size_t len, uint32_t seed)
{
	struct dmv_message message;
	uint8_t *bytes = malloc(len + 1);
	size_t done = 0;
	uint32_t i;

	need(bytes && dmv_take_message(b.qp, &message) == 0);
	need(message.wr_id == wr_id && message.dmabuf == -1);
	for (i = 0; i < message.num_pieces; i++) {
		const struct dmv_piece *piece = &message.pieces[i];

		need(piece->where == DMV_IN_HOST && piece->length > 0 && piece->length <= len - done);
		memcpy(bytes + done, (void *)(uintptr_t)piece->at, piece->length);
		done += piece->length;
	}
	need(done == len && filled(bytes, len, seed));
	free(bytes);
	return message.handle;
}

static void both(const char *what)
{
	show_next(what, a.send_cq);
	show_next("  received", b.recv_cq);
}

static void bad_arguments(void)
{
	struct dmv_message message;
	struct ibv_pd *pd = ibv_alloc_pd(device);
	struct ibv_mr *elsewhere, *readonly;

	need(pd);
	elsewhere = ibv_reg_mr(pd, a.buf, 4096, IBV_ACCESS_LOCAL_WRITE);
	readonly = ibv_reg_mr(b.pd, b.buf, 4096, 0);
	need(elsewhere && readonly);
	outcome("no QP", dmv_post_recv(NULL, b.mr, 10, 1));
	outcome("no region", dmv_post_recv(b.qp, NULL, 10, 1));
	outcome("a region of another domain", dmv_post_recv(b.qp, elsewhere, 10, 1));
	outcome("a region that may not be written", dmv_post_recv(b.qp, readonly, 10, 1));
	outcome("nothing to take", dmv_take_message(b.qp, &message));
	outcome("no place for a message", dmv_take_message(b.qp, NULL));
	outcome("nothing to return", dmv_return_message(b.qp, 1));
	need(ibv_dereg_mr(readonly) == 0 && ibv_dereg_mr(elsewhere) == 0 && ibv_dealloc_pd(pd) == 0);
}

static void sizes(void)
{
	static const size_t lens[] = { 0, 1, 4096, 100000, BIG };
	uint64_t handles[COUNT(lens)];
	size_t i;

	for (i = 0; i < COUNT(lens); i++) {
		fill(a.buf, lens[i], i);
		need(dmv_post_recv(b.qp, b.mr, BIG, 10 + i) == 0);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_SEND, .len = lens[i] });
		both("a message");
		handles[i] = take(10 + i, lens[i], i);
	}
	say("all bytes are right");
	for (i = COUNT(lens); i-- > 0;)
		need(dmv_return_message(b.qp, handles[i]) == 0);
	outcome("returned twice", dmv_return_message(b.qp, handles[0]));
	yes("the region was not touched", all(b.buf, BIG, 0xee));
}

/* Receives with buffers, and without: each takes its turn, and only messages of the latter can be taken. */
static void in_turns(void)
{
	struct dmv_message message;

	need(dmv_post_recv(b.qp, b.mr, 100, 20) == 0);
	post_recv(&b, 21, 0, 100);
	need(dmv_post_recv(b.qp, b.mr, 100, 22) == 0);
	need(dmv_post_recv(b.qp, b.mr, 100, 23) == 0);
	fill(a.buf, 100, 30);
	fill(a.buf + 100, 100, 31);
	fill(a.buf + 200, 100, 32);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND, .len = 100 });
	both("first, without a buffer");
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_SEND, .at = 100, .len = 100 });
	both("second, with one");
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE_WITH_IMM, .at = 100, .to = 1000, .len = 100 });
	both("a WRITE with immediate data");
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_SEND, .at = 200, .len = 100 });
	both("last, without a buffer");
	yes("the buffer has its message", filled(b.buf, 100, 31));
	need(dmv_return_message(b.qp, take(20, 100, 30)) == 0);
	need(dmv_return_message(b.qp, take(23, 100, 32)) == 0);
	outcome("another one", dmv_take_message(b.qp, &message));
}

static void full_queue(void)
{
	struct dmv_message message;
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	uint64_t handle;
	uint32_t i;

	need(ibv_query_qp(b.qp, &attr, IBV_QP_CAP, &init) == 0);
	for (i = 0; i < init.cap.max_recv_wr; i++)
		need(dmv_post_recv(b.qp, b.mr, 1000, i) == 0);
	outcome("one receive too many", dmv_post_recv(b.qp, b.mr, 1000, i));
	/* Longer than all that are posted: the connection ends, what is complete stays. */
	fill(a.buf, 2000, 40);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND, .len = 1000 });
	both("as long as the receive");
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_SEND, .len = 1001 });
	show_next("longer", a.send_cq);
	show_next("  received", b.recv_cq);
	show_next("  the next receive", b.recv_cq);
	handle = take(0, 1000, 40);
	outcome("a message of the receive that failed", dmv_take_message(b.qp, &message));
	need(end_to(&b, IBV_QPS_RESET) == 0);
	outcome("returned after RESET", dmv_return_message(b.qp, handle));
}

/* The message has come, but not its completion: it is none. */
static void bad_invalidation(void)
{
	struct dmv_message message;

	need(dmv_post_recv(b.qp, b.mr, 1000, 50) == 0);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_SEND_WITH_INV, .len = 1000, .imm = 0xdead });
	show_next("a key that cannot be invalidated", a.send_cq);
	show_next("  received", b.recv_cq);
	outcome("a message of it", dmv_take_message(b.qp, &message));
}

static int elsewhere(void)
{
	outcome("another library, receiving", dmv_post_recv(NULL, NULL, 0, 0));
	outcome("  taking", dmv_take_message(NULL, NULL));
	outcome("  returning", dmv_return_message(NULL, 0));
	return 0;
}

/* This program with the system's library, where that is another one. */
static void run_elsewhere(void)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	need(child >= 0);
	if (child == 0) {
		unsetenv("LD_PRELOAD");
		unsetenv("LD_LIBRARY_PATH");
		execl("/proc/self/exe", "in_place", "elsewhere", (char *)NULL);
		_exit(1);
	}
	need(waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv)
{
	struct setup setup = usual;
	struct dmv_message message;

	if (argc > 1 && strcmp(argv[1], "elsewhere") == 0)
		return elsewhere();
	run_elsewhere();
	rig_open(argc, argv);
	setup.memory = BIG;
	pair_make(&a, &b, &setup);
	if (dmv_take_message(b.qp, &message) == EOPNOTSUPP && getenv("VERBS_TEST_LENIENT"))
		skip("the library is not dmverbs'");
	memset(b.buf, 0xee, BIG);
	bad_arguments();
	sizes();
	in_turns();
	full_queue();
	pair_drop(&a, &b);
	pair_make(&a, &b, &setup);
	bad_invalidation();
	pair_drop(&a, &b);
	pair_make(&a, &b, &setup);
	fill(a.buf, 1000, 60);
	need(dmv_post_recv(b.qp, b.mr, 1000, 51) == 0);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_SEND, .len = 1000 });
	both("a message that is not returned");
	take(51, 1000, 60);
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
