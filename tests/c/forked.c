/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The peer has a child process that outlives it: what the child inherited must not keep the
 * connection alive. A child that ends does its parent no harm. And one that goes on opens the
 * device anew.
 */
#define _GNU_SOURCE
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void serve(const struct process *parent)
{
	struct end dying;
	pid_t child;

	rig_open(0, NULL);
	dying = end_join(parent, &hasty);
	(void)dying;
	fflush(stdout);
	child = fork();
	need(child >= 0);
	/* The grandchild lives until the socket to the first process is closed. */
	if (child == 0) {
		char end;

		close(STDOUT_FILENO);
		prctl(PR_SET_PDEATHSIG, 0);
		while (read(parent->fd, &end, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	tell(parent->fd, &child, sizeof(child));
	for (;;)
		pause();
}

static void outlived(int argc, char **argv)
{
	struct process other = fork_peer();
	struct end a;
	pid_t grandchild;
	uint64_t start;

	if (other.child == 0)
		serve(&other);
	rig_open(argc, argv);
	a = end_join(&other, &hasty);
	hear(other.fd, &grandchild, sizeof(grandchild));
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("while the peer lives", a.send_cq);
	need(kill(other.child, SIGKILL) == 0);
	need(waitpid(other.child, NULL, 0) == other.child);
	start = now_ms();
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("when it was killed, but not its child", a.send_cq);
	yes("  within its time", now_ms() - start < 4 * 269 + 500);
	yes("  the child lives", kill(grandchild, 0) == 0);
	close(other.fd);
	end_drop(&a);
}

static void harmless(void)
{
	struct end a, b;
	pid_t child;
	int status, pair[2];
	char heard;

	pair_make(&a, &b, &usual);
	fill(a.buf, 64, 1);
	fflush(stdout);
	child = fork();
	need(child >= 0);
	if (child == 0)
		_exit(0);
	need(waitpid(child, &status, 0) == child && status == 0);
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("after a child has come and gone", a.send_cq);
	yes("  the data is there", filled(b.buf, 64, 1));

	child = fork();
	need(child >= 0);
	if (child == 0) {
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	need(waitpid(child, &status, 0) == child && status == 0);
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("after a child has started a program", a.send_cq);

	/* Sockets of the child's own may have got the numbers of those that it inherited. */
	need(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	ask(&a, (struct ask){ .id = 5, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	fflush(stdout);
	child = fork();
	need(child >= 0);
	if (child == 0) {
		for (int i = 0; i < 64; i++)
			need(dup(pair[1]) >= 0);
		exit(0);
	}
	close(pair[1]);
	need(waitpid(child, &status, 0) == child && status == 0);
	yes("a child that exits says nothing to anybody", recv(pair[0], &heard, 1, 0) == 0);
	close(pair[0]);
	show_next("  and its parent goes on", a.send_cq);
	pair_drop(&a, &b);
}

/* A child of a process that has the device open sleeps on a channel of its own. */
static void serve_own(const struct process *parent)
{
	struct ibv_comp_channel *channel;
	struct setup setup = usual;
	struct ibv_cq *cq;
	struct end b;
	void *told;

	device = NULL;
	rig_open(0, NULL);
	channel = ibv_create_comp_channel(device);
	need(channel);
	setup.channel = channel;
	b = end_join(parent, &setup);
	post_recv(&b, 6, 0, 64);
	need(ibv_req_notify_cq(b.recv_cq, 0) == 0);
	meet(parent);
	need(ibv_get_cq_event(channel, &cq, &told) == 0 && cq == b.recv_cq);
	ibv_ack_cq_events(cq, 1);
	expect(b.recv_cq, 6);
	need(filled(b.buf, 64, 6));
	ask(&b, (struct ask){ .id = 7, .op = IBV_WR_RDMA_WRITE, .len = 64, .to = 64 });
	expect(b.send_cq, 7);
	meet(parent);
	end_drop(&b);
	need(ibv_destroy_comp_channel(channel) == 0);
	rig_close();
}

static void opens_anew(void)
{
	struct process child;
	struct end a, x, y;

	/* The parent's is in use. */
	pair_make(&x, &y, &usual);
	child = fork_peer();
	if (child.child == 0) {
		serve_own(&child);
		exit(0);
	}
	a = end_join(&child, &usual);
	fill(a.buf, 64, 6);
	meet(&child);
	ask(&a, (struct ask){ .id = 6, .op = IBV_WR_SEND, .len = 64 });
	show_next("a child that has opened the device anew receives", a.send_cq);
	meet(&child);
	yes("  and writes", filled(a.buf + 64, 64, 6));
	join(&child);
	ask(&x, (struct ask){ .id = 8, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("  and its parent goes on", x.send_cq);
	end_drop(&a);
	pair_drop(&x, &y);
}

int main(int argc, char **argv)
{
	outcome("ibv_fork_init", ibv_fork_init());
	outlived(argc, argv);
	harmless();
	opens_anew();
	rig_close();
	return 0;
}
