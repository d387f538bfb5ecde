/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every verb may be called by any thread: on queue pairs of its own, on a common one, on a common completion queue. */
#include "rig.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define THREADS 8
#define ROUNDS 500

static struct ibv_cq *shared;
static uint32_t seen[THREADS];
static bool right = true;

static void wrong(void)
{
	__atomic_store_n(&right, false, __ATOMIC_RELAXED);
}

/* Takes whatever has completed, for whomever. */
static void poll_shared(void)
{
	struct ibv_wc wc[8];
	int n = ibv_poll_cq(shared, COUNT(wc), wc);

	need(n >= 0);
	for (int i = 0; i < n; i++) {
		if (wc[i].status != IBV_WC_SUCCESS || wc[i].wr_id >= THREADS)
			wrong();
		else
			__atomic_add_fetch(&seen[wc[i].wr_id], 1, __ATOMIC_RELEASE);
	}
	if (n == 0)
		sched_yield();
}

/* Its own pair, but everybody's completion queue. */
static void *own_pair(void *number)
{
	uint64_t me = (uintptr_t)number;
	struct setup setup = usual;
	struct end a, b;

	setup.send_cq = shared;
	pair_make(&a, &b, &setup);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		fill(a.buf, 1000, i + me);
		ask(&a, (struct ask){ .id = me, .op = IBV_WR_RDMA_WRITE, .len = 1000 });
		while (__atomic_load_n(&seen[me], __ATOMIC_ACQUIRE) <= i)
			poll_shared();
		if (!filled(b.buf, 1000, i + me))
			wrong();
	}
	pair_drop(&a, &b);
	return NULL;
}

static struct end one, other;

/* Everybody's pair. */
static void *one_pair(void *number)
{
	size_t me = (uintptr_t)number;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		struct ask request = { .id = me, .op = IBV_WR_RDMA_WRITE, .at = 1024 * me, .to = 1024 * me, .len = 1000 };

		fill(one.buf + 1024 * me, 1000, i + me);
		while (try_ask(&one, request) == ENOMEM)
			poll_shared();
		while (__atomic_load_n(&seen[me], __ATOMIC_ACQUIRE) <= i)
			poll_shared();
		if (!filled(other.buf + 1024 * me, 1000, i + me))
			wrong();
	}
	return NULL;
}

/* Objects come and go while others work. */
static void *making(void *number)
{
	(void)number;
	for (int i = 0; i < 20; i++) {
		struct end a, b;

		pair_make(&a, &b, &usual);
		fill(a.buf, 64, i);
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
		if (poll_one(a.send_cq).status != IBV_WC_SUCCESS || !filled(b.buf, 64, i))
			wrong();
		pair_drop(&a, &b);
	}
	return NULL;
}

static void run(const char *what, void *(*work)(void *))
{
	pthread_t threads[THREADS];

	memset(seen, 0, sizeof(seen));
	for (uintptr_t i = 0; i < THREADS; i++)
		need(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
	for (int i = 0; i < THREADS; i++)
		need(pthread_join(threads[i], NULL) == 0);
	yes(what, right);
}

int main(int argc, char **argv)
{
	struct setup setup = usual;

	rig_open(argc, argv);
	shared = ibv_create_cq(device, 1024, NULL, NULL, 0);
	need(shared);
	run("8 threads on queue pairs of their own, and one completion queue", own_pair);
	setup.send_cq = shared;
	pair_make(&one, &other, &setup);
	run("8 threads on one queue pair", one_pair);
	pair_drop(&one, &other);
	run("8 threads that make and destroy", making);
	need(ibv_destroy_cq(shared) == 0);
	rig_close();
	return 0;
}
