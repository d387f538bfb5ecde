/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory of a GPU, registered by its address: by CUDA's driver where VERBS_TEST_CUDA names it, else by a stand-in
 * (standin/cuda.c), whose memory the CPU cannot touch.
 */
#include "rig.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BYTES = 300000 };

/* cuda.h */
static int (*init)(unsigned int flags);
static int (*retain)(void **context, int ordinal);
static int (*reset)(int ordinal);
static int (*push)(void *context);
static int (*current)(void **context);
static int (*allocate)(uint64_t *address, size_t len);
static int (*release)(uint64_t address);
static int (*to_gpu)(uint64_t to, const void *from, size_t len);
static int (*to_host)(void *to, uint64_t from, size_t len);

static void *context;
static struct end a, b;
/* What the GPU has for each end. */
static uint64_t at_a, at_b;
static struct ibv_mr *mr_a, *mr_b;
static uint8_t *host;

static void *symbol(void *library, const char *name)
{
	void *found = dlsym(library, name);

	need(found);
	return found;
}

static void load(void)
{
	const char *named = getenv("VERBS_TEST_CUDA");
	char beside[PATH_MAX] = "";
	void *library;

	if (!named) {
		need(readlink("/proc/self/exe", beside, sizeof(beside) - 32) > 0);
		named = strcat(dirname(beside), "/libcuda.so.1");
	}
	library = dlopen(named, RTLD_NOW);
	need(library);
	*(void **)&init = symbol(library, "cuInit");
	*(void **)&retain = symbol(library, "cuDevicePrimaryCtxRetain");
	*(void **)&reset = symbol(library, "cuDevicePrimaryCtxReset_v2");
	*(void **)&push = symbol(library, "cuCtxPushCurrent_v2");
	*(void **)&current = symbol(library, "cuCtxGetCurrent");
	*(void **)&allocate = symbol(library, "cuMemAlloc_v2");
	*(void **)&release = symbol(library, "cuMemFree_v2");
	*(void **)&to_gpu = symbol(library, "cuMemcpyHtoD_v2");
	*(void **)&to_host = symbol(library, "cuMemcpyDtoH_v2");
}

static void set(uint64_t at, size_t len, uint32_t seed)
{
	fill(host, len, seed);
	need(to_gpu(at, host, len) == 0);
}

static bool is(uint64_t at, size_t len, uint32_t seed)
{
	need(to_host(host, at, len) == 0);
	return filled(host, len, seed);
}

/* All sizes around what is handled differently, at odd places; the bytes before and behind stay as they are. */
static bool moves(enum ibv_wr_opcode op)
{
	static const size_t sizes[] = { 1, 7, 8, 64, 4095, 8192, 8193, 65537, 262145, 290001 };
	bool right = true;

	for (size_t i = 0; i < COUNT(sizes); i++) {
		uint64_t from = op == IBV_WR_RDMA_READ ? at_b : at_a, to = op == IBV_WR_RDMA_READ ? at_a : at_b;
		size_t skip = 1 + i * 13, len = sizes[i], behind = 100;
		struct ibv_sge local = { .addr = at_a + skip, .length = len, .lkey = mr_a->lkey };
		struct ibv_sge remote = { .addr = at_b + skip, .length = len, .lkey = mr_b->lkey };

		set(to, skip + len + behind, 77);
		set(from + skip, len, i + 1);
		if (op == IBV_WR_SEND)
			post_recv_sges(&b, 5, &remote, 1);
		ask(&a, (struct ask){ .id = i, .op = op, .sges = &local, .num_sge = 1, .rkey = mr_b->rkey,
				      .remote_addr = at_b + skip });
		expect(a.send_cq, i);
		if (op == IBV_WR_SEND)
			right = right && expect(b.recv_cq, 5).byte_len == len;
		right = right && is(to + skip, len, i + 1) && is(to, skip, 77);
		/* What is behind was filled from the middle of the pattern. */
		fill(host, skip + len + behind, 77);
		memmove(host, host + skip + len, behind);
		need(to_host(host + behind, to + skip + len, behind) == 0);
		right = right && memcmp(host, host + behind, behind) == 0;
	}
	return right;
}

static void atomics(void)
{
	uint64_t word = 41, before = 0;
	struct ibv_sge local = { .addr = at_a + 64, .length = 8, .lkey = mr_a->lkey };

	need(to_gpu(at_b + 128, &word, 8) == 0);
	for (uint64_t i = 0; i < 2; i++) {
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .sges = &local, .num_sge = 1,
				      .rkey = mr_b->rkey, .remote_addr = at_b + 128, .compare_add = 1 });
		expect(a.send_cq, i);
	}
	need(to_host(&before, at_a + 64, 8) == 0 && to_host(&word, at_b + 128, 8) == 0);
	yes("atomics change words of the GPU", before == 42 && word == 43);
}

/* From the GPU's memory to the process's, and back. */
static void mixed(void)
{
	struct ibv_sge parts[2] = { { .addr = at_a + 5, .length = 3000, .lkey = mr_a->lkey }, sge(&a, 3000, 1000) };
	bool right;

	set(at_a + 5, 3000, 8);
	fill(a.buf + 3000, 1000, 9);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .sges = parts, .num_sge = 2 });
	expect(a.send_cq, 1);
	right = filled(b.buf, 3000, 8) && filled(b.buf + 3000, 1000, 9);
	fill(b.buf + 4000, 3000, 10);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ, .sges = parts, .num_sge = 1, .to = 4000 });
	expect(a.send_cq, 2);
	yes("one request can have parts on the GPU and in the process", right && is(at_a + 5, 3000, 10));
}

/* The program has reset its GPU, and goes on. */
static void anew(void)
{
	struct ibv_sge local = { .length = 64 };

	need(reset(0) == 0 && retain(&context, 0) == 0 && push(context) == 0 && allocate(&at_a, BYTES) == 0);
	pair_make(&a, &b, &usual);
	mr_a = ibv_reg_mr(a.pd, (void *)at_a, BYTES, IBV_ACCESS_LOCAL_WRITE);
	outcome("memory of a GPU that was reset is registered", errno_if(!mr_a));
	set(at_a, 64, 12);
	local.addr = at_a;
	local.lkey = mr_a->lkey;
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .sges = &local, .num_sge = 1 });
	show_next("write from there", a.send_cq);
	yes("  the data is there", filled(b.buf, 64, 12));
	need(ibv_dereg_mr(mr_a) == 0 && release(at_a) == 0);
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
			   IBV_ACCESS_REMOTE_ATOMIC;
	struct ibv_sge local;
	void *now;

	load();
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	host = pages(2 * BYTES);
	need(init(0) == 0 && retain(&context, 0) == 0 && push(context) == 0);
	need(allocate(&at_a, BYTES) == 0 && allocate(&at_b, BYTES) == 0);

	mr_a = ibv_reg_mr(a.pd, (void *)at_a, BYTES, access);
	outcome("memory of a GPU is registered", errno_if(!mr_a));
	mr_b = ibv_reg_mr(b.pd, (void *)(at_b + 1), BYTES - 1, access);
	outcome("so is a part of it", errno_if(!mr_b));
	need(mr_a && mr_b);
	need(ibv_dereg_mr(mr_b) == 0);
	mr_b = ibv_reg_mr(b.pd, (void *)at_b, BYTES, access);
	need(mr_b);
	outcome("more than it is", errno_if(!ibv_reg_mr(a.pd, (void *)(at_a + 1), BYTES, access)));

	yes("WRITE, GPU to GPU", moves(IBV_WR_RDMA_WRITE));
	yes("READ, GPU to GPU", moves(IBV_WR_RDMA_READ));
	yes("SEND, GPU to GPU", moves(IBV_WR_SEND));
	atomics();
	mixed();
	need(current(&now) == 0);
	yes("the program's context is its own", now == context);

	need(release(at_a) == 0);
	local = (struct ibv_sge){ .addr = at_a, .length = 64, .lkey = mr_a->lkey };
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .sges = &local, .num_sge = 1 });
	show_next("write from memory that was freed", a.send_cq);
	need(ibv_dereg_mr(mr_a) == 0 && ibv_dereg_mr(mr_b) == 0 && release(at_b) == 0);
	pair_drop(&a, &b);
	anew();
	rig_close();
	return 0;
}
