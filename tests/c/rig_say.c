/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Completions, memory, time, and what a program says about them. */
#define _GNU_SOURCE
#include "rig.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Longer than anything takes on a slow machine, shorter than the runner's limit. */
#define PATIENCE_MS 20000

static bool poll_until(struct ibv_cq *cq, struct ibv_wc *wc, int milliseconds)
{
	uint64_t end = now_ms() + milliseconds;

	do {
		int n = ibv_poll_cq(cq, 1, wc);

		need(n >= 0);
		if (n == 1)
			return true;
		sched_yield();
	} while (now_ms() < end);
	return false;
}

struct ibv_wc poll_one(struct ibv_cq *cq)
{
	struct ibv_wc wc;

	if (!poll_until(cq, &wc, PATIENCE_MS)) {
		say("no completion came in time");
		exit(1);
	}
	return wc;
}

struct ibv_wc expect(struct ibv_cq *cq, uint64_t id)
{
	struct ibv_wc wc = poll_one(cq);

	if (wc.wr_id != id || wc.status != IBV_WC_SUCCESS) {
		say("instead of a success of request %llu:", (unsigned long long)id);
		show("  got", &wc);
		exit(1);
	}
	return wc;
}

bool quiet(struct ibv_cq *cq, int milliseconds)
{
	struct ibv_wc wc;

	return !poll_until(cq, &wc, milliseconds);
}

static const char *opcode(enum ibv_wc_opcode opcode)
{
	switch (opcode) {
	case IBV_WC_SEND: return "SEND";
	case IBV_WC_RDMA_WRITE: return "RDMA_WRITE";
	case IBV_WC_RDMA_READ: return "RDMA_READ";
	case IBV_WC_COMP_SWAP: return "COMP_SWAP";
	case IBV_WC_FETCH_ADD: return "FETCH_ADD";
	case IBV_WC_BIND_MW: return "BIND_MW";
	case IBV_WC_LOCAL_INV: return "LOCAL_INV";
	case IBV_WC_RECV: return "RECV";
	case IBV_WC_RECV_RDMA_WITH_IMM: return "RECV_RDMA_WITH_IMM";
	default: return "an unknown opcode";
	}
}

/* Of a failed request only the status, the number and the queue pair are valid; see ibv_poll_cq(3). */
void show(const char *what, const struct ibv_wc *wc)
{
	bool counted = wc->opcode == IBV_WC_RDMA_READ || wc->opcode == IBV_WC_COMP_SWAP ||
		wc->opcode == IBV_WC_FETCH_ADD || (wc->opcode & IBV_WC_RECV);

	printf("%s: request %llu: %s", what, (unsigned long long)wc->wr_id, ibv_wc_status_str(wc->status));
	if (wc->status == IBV_WC_SUCCESS) {
		printf(", %s", opcode(wc->opcode));
		if (counted)
			printf(", %u bytes", wc->byte_len);
		/* rxe says so of requests too; only to a receive does it mean anything. */
		if (wc->opcode & IBV_WC_RECV && wc->wc_flags & IBV_WC_WITH_IMM)
			printf(", immediate");
		if (wc->wc_flags & IBV_WC_WITH_INV)
			printf(", invalidated");
	}
	printf("\n");
}

void show_next(const char *what, struct ibv_cq *cq)
{
	struct ibv_wc wc = poll_one(cq);

	show(what, &wc);
}

void *pages(size_t len)
{
	size_t page = sysconf(_SC_PAGESIZE);
	void *memory = aligned_alloc(page, (len + page - 1) / page * page);

	need(memory);
	memset(memory, 0, len);
	return memory;
}

/* Every byte depends on its place and on the seed, with a period that is no power of two. */
static uint8_t byte_at(size_t i, uint32_t seed)
{
	return (uint8_t)((i % 251) + (i / 251) * 31 + seed * 17);
}

void fill(uint8_t *bytes, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = byte_at(i, seed);
}

bool filled(const uint8_t *bytes, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++)
		if (bytes[i] != byte_at(i, seed))
			return false;
	return true;
}

bool all(const uint8_t *bytes, size_t len, uint8_t value)
{
	for (size_t i = 0; i < len; i++)
		if (bytes[i] != value)
			return false;
	return true;
}

uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool becomes(const volatile uint8_t *byte, uint8_t value)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (*byte != value) {
		if (now_ms() > end)
			return false;
		sched_yield();
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return true;
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
}

void yes(const char *what, bool is)
{
	say("%s: %s", what, is ? "yes" : "no");
}

void outcome(const char *what, int error)
{
	const char *name = strerrorname_np(error);

	say("%s: %s", what, error == 0 ? "ok" : name ? name : "an unknown error");
}

int errno_if(bool failed)
{
	return failed ? errno : 0;
}

int lenient(int error, int other, int wanted)
{
	if (error != other || !getenv("VERBS_TEST_LENIENT"))
		return error;
	fprintf(stderr, "%s passes for %s\n", strerrorname_np(other), strerrorname_np(wanted));
	return wanted;
}

void skip(const char *why)
{
	say("skip: %s", why);
	exit(77);
}

void broken(const char *file, int line, const char *what)
{
	int error = errno;

	fflush(stdout);
	fprintf(stderr, "%s:%d: needed: %s (errno: %s)\n", file, line, what, strerror(error));
	exit(1);
}
