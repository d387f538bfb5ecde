/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * No file descriptors are left (RLIMIT_NOFILE): another queue pair is refused,
 * those that are there go on, and so does a listener when there are some again.
 */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* No file descriptor is free: the lowest that is not open is too high. */
static void take_all(void)
{
	struct rlimit files;
	int next = dup(STDOUT_FILENO);

	need(next >= 0 && close(next) == 0);
	need(getrlimit(RLIMIT_NOFILE, &files) == 0);
	files.rlim_cur = next;
	need(setrlimit(RLIMIT_NOFILE, &files) == 0);
}

static void give_all(void)
{
	struct rlimit files;

	need(getrlimit(RLIMIT_NOFILE, &files) == 0);
	files.rlim_cur = files.rlim_max;
	need(setrlimit(RLIMIT_NOFILE, &files) == 0);
}

static bool writes(struct end *a, const struct end *b, uint32_t seed)
{
	fill(a->buf, 4096, seed);
	ask(a, (struct ask){ .id = seed, .op = IBV_WR_RDMA_WRITE, .len = 4096 });
	expect(a->send_cq, seed);
	return filled(b->buf, 4096, seed);
}

/* Nobody can be accepted here until there are file descriptors again. */
static void serve(const struct process *parent)
{
	struct end b;

	rig_open(0, NULL);
	b = end_make(&usual);
	tell(parent->fd, &b.self, sizeof(b.self));
	hear(parent->fd, &b.peer, sizeof(b.peer));
	end_connect(&b, &b.peer);
	take_all();
	meet(parent);
	/* The parent dials meanwhile. */
	meet(parent);
	give_all();
	meet(parent);
	end_drop(&b);
	rig_close();
}

int main(int argc, char **argv)
{
	struct process child = fork_peer();
	struct ibv_qp_init_attr attr = { .qp_type = IBV_QPT_RC, .cap = usual.cap };
	struct end a, b, c;

	/* The lower queue pair number, whose upper half is the port, dials. */
	need(setenv("DMVERBS_PORT_RANGE", child.child == 0 ? "22000-22999" : "21000-21999", 1) == 0);
	if (child.child == 0) {
		serve(&child);
		return 0;
	}
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	attr.send_cq = attr.recv_cq = a.send_cq;
	take_all();
	errno = 0;
	yes("another queue pair is refused", !ibv_create_qp(a.pd, &attr));
	outcome("  for want of file descriptors", errno);
	yes("those that are there go on", writes(&a, &b, 1));
	give_all();
	c = end_make(&usual);
	yes("then there is another", true);
	pair_drop(&a, &b);

	tell(child.fd, &c.self, sizeof(c.self));
	hear(child.fd, &c.peer, sizeof(c.peer));
	meet(&child);
	end_connect(&c, &c.peer);
	ask(&c, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE, .len = 4096 });
	yes("who listens without any accepts nobody", quiet(c.send_cq, 200));
	meet(&child);
	show_next("and goes on when there are some", c.send_cq);
	meet(&child);
	join(&child);
	end_drop(&c);
	rig_close();
	return 0;
}
