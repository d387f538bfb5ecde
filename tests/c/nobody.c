/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Nobody answers: a queue pair that is not there, and one that is not ready to receive.
 * The local ack timeout t and the retry count say when to give up: after (retries + 1) times
 * 4.096 us * 2^t at least, and at most four times that.
 */
#include "rig.h"

static void give_up(const char *what, struct end *a, uint64_t budget)
{
	uint64_t start = now_ms(), took;

	ask(a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	ask(a, (struct ask){ .id = 2, .op = IBV_WR_SEND, .len = 8, .unsignaled = true });
	post_recv(a, 11, 0, 8);
	say("%s", what);
	show_next("  first", a->send_cq);
	took = now_ms() - start;
	show_next("  second", a->send_cq);
	show_next("  receive", a->recv_cq);
	/* A slow machine may add something; but it must not be minutes, which TCP would take. */
	yes("  not before its time", took + 5 >= budget);
	yes("  not long after", took <= 4 * budget + 500);
	yes("  it is in error", end_state(a) == IBV_QPS_ERR);
}

static struct setup impatient(uint8_t timeout, uint8_t retries)
{
	struct setup setup = usual;

	setup.timeout = timeout;
	setup.retry_cnt = retries;
	return setup;
}

static void gone(uint8_t timeout, uint8_t retries, uint64_t budget)
{
	struct setup setup = impatient(timeout, retries);
	struct end a = end_make(&setup), b = end_make(&setup);
	struct address nobody = b.self;

	end_drop(&b);
	end_connect(&a, &nobody);
	give_up("a queue pair that is not there", &a, budget);
	end_drop(&a);
}

/* The other end knows us, but stays in INIT. */
static void not_ready(uint8_t timeout, uint8_t retries, uint64_t budget)
{
	struct setup setup = impatient(timeout, retries);
	struct end a = end_make(&setup), b = end_make(&setup);

	need(end_to_init(&b) == 0);
	end_connect(&a, &b.self);
	give_up("a queue pair that is not ready to receive", &a, budget);
	end_drop(&b);
	end_drop(&a);
}

/* Connecting takes its time, and a request waits for it. */
static void ready_late(void)
{
	struct setup setup = impatient(18, 7);
	struct end a = end_make(&setup), b = end_make(&setup);

	end_connect(&a, &b.self);
	fill(a.buf, 64, 1);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	yes("a request waits for a peer that is not ready yet", quiet(a.send_cq, 200));
	end_connect(&b, &a.self);
	show_next("  and is served when it is", a.send_cq);
	yes("  the data is there", filled(b.buf, 64, 1));
	pair_drop(&a, &b);
}

/* Timeout 0 means no timeout; what waits is flushed when the program ends it. */
static void no_timeout(void)
{
	struct setup setup = impatient(0, 0);
	struct end a = end_make(&setup), b = end_make(&setup);

	need(end_to_init(&b) == 0);
	end_connect(&a, &b.self);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	yes("without a timeout it waits", quiet(a.send_cq, 500));
	need(end_to(&a, IBV_QPS_ERR) == 0);
	show_next("  until the program ends it", a.send_cq);
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	gone(15, 1, 268);	/* 134.2 ms * 2 */
	gone(16, 0, 268);	/* 268.4 ms * 1 */
	not_ready(14, 3, 268);	/* 67.1 ms * 4 */
	ready_late();
	no_timeout();
	rig_close();
	return 0;
}
