/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Two connected queue pairs are connected again, one after the other: the first
 * is ready, all the way, before the second has been reset. Whichever of them it
 * is, they meet; in one process and in two.
 */
#include "rig.h"

#include <stdlib.h>

static void again(struct end *end)
{
	need(end_to(end, IBV_QPS_RESET) == 0);
	end_connect(end, &end->peer);
}

/* Time enough to find the other as it was before. */
static void alone(const struct end *end)
{
	need(quiet(end->send_cq, 100));
}

/* Both directions. */
static void exchange(struct end *end, uint64_t id, const char *what)
{
	post_recv(end, id, 64, 8);
	ask(end, (struct ask){ .id = id, .op = IBV_WR_SEND, .len = 8 });
	if (what) {
		show_next(what, end->send_cq);
		show_next("  received", end->recv_cq);
	} else {
		expect(end->send_cq, id);
		expect(end->recv_cq, id);
	}
}

static void serve(const struct process *parent)
{
	struct end b;

	rig_open(0, NULL);
	b = end_join(parent, &usual);
	exchange(&b, 1, NULL);
	meet(parent);
	again(&b);
	alone(&b);
	meet(parent);
	meet(parent);
	exchange(&b, 2, NULL);
	meet(parent);
	meet(parent);
	again(&b);
	exchange(&b, 3, NULL);
	meet(parent);
	end_drop(&b);
	rig_close();
}

static void in_two(int argc, char **argv)
{
	struct process child = fork_peer();
	struct end a;

	if (child.child == 0) {
		serve(&child);
		exit(0);
	}
	rig_open(argc, argv);
	a = end_join(&child, &usual);
	exchange(&a, 1, "connected");
	meet(&child);
	/* The child is first; then this process. */
	meet(&child);
	again(&a);
	meet(&child);
	exchange(&a, 2, "again, the other first");
	meet(&child);
	again(&a);
	alone(&a);
	meet(&child);
	exchange(&a, 3, "again, this one first");
	meet(&child);
	join(&child);
	end_drop(&a);
}

static void in_one(void)
{
	struct end a, b;

	pair_make(&a, &b, &usual);
	for (int i = 0; i < 2; i++) {
		again(i ? &b : &a);
		alone(&a);
		again(i ? &a : &b);
		post_recv(&b, 4, 0, 8);
		ask(&a, (struct ask){ .id = 4, .op = IBV_WR_SEND, .len = 8 });
		show_next("again, in one process", a.send_cq);
		show_next("  received", b.recv_cq);
	}
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	in_two(argc, argv);
	in_one();
	rig_close();
	return 0;
}
