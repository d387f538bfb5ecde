/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The peer is slow to answer, and has answered in the end; but the requester's
 * process was stopped meanwhile, as by a debugger, for longer than its retry
 * budget. What has been answered is no failure.
 */
#include "rig.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A budget of (1 + 1) * 67.1 ms; we allow ourselves twice that. */
static const struct setup brief = {
	.access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE,
	.timeout = 14,
	.retry_cnt = 1,
	.rd_atomic = 1,
	.cap = { .max_send_wr = 16, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
	.memory = 65536,
	.cqe = 16,
};

static void serve(const struct process *parent)
{
	struct end b;

	rig_open(0, NULL);
	b = end_join(parent, &brief);
	meet(parent);
	meet(parent);
	end_drop(&b);
	rig_close();
}

/* Lets both go on; how long they are stopped is what is tested, hence the sleeps. */
static void resume(const struct process *parent, pid_t peer)
{
	char begun;

	for (;;) {
		hear(parent->fd, &begun, 1);
		usleep(500000);
		need(kill(peer, SIGCONT) == 0);
		usleep(300000);
		/* Until the parent says more: it may have been slow to stop itself. */
		while (recv(parent->fd, &begun, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
			need(kill(getppid(), SIGCONT) == 0);
			usleep(10000);
		}
	}
}

int main(int argc, char **argv)
{
	struct process child = fork_peer(), helper;
	uint64_t posted = 0;
	bool right = true;
	struct end a;

	if (child.child == 0) {
		serve(&child);
		return 0;
	}
	helper = fork_peer();
	if (helper.child == 0)
		resume(&helper, child.child);
	rig_open(argc, argv);
	a = end_join(&child, &brief);
	meet(&child);
	for (int i = 0; i < 5 && right; i++) {
		stop_peer(&child);
		tell(helper.fd, "", 1);
		for (int n = 0; n < 8; n++)
			ask(&a, (struct ask){ .id = posted++, .op = IBV_WR_RDMA_WRITE, .len = 4096 });
		/* The deadline runs. */
		usleep(150000);
		need(raise(SIGSTOP) == 0);
		/* Nobody polls while the deadline is looked at. */
		usleep(20000);
		for (int n = 8; n > 0 && right; n--) {
			struct ibv_wc wc = poll_one(a.send_cq);

			right = wc.status == IBV_WC_SUCCESS && wc.wr_id == posted - n;
		}
	}
	yes("everything succeeds", right);
	meet(&child);
	join(&child);
	need(kill(helper.child, SIGKILL) == 0);
	need(waitpid(helper.child, NULL, 0) == helper.child);
	end_drop(&a);
	rig_close();
	return 0;
}
