/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The program's signals are the program's: whatever threads a library has take none of them. */
#define _GNU_SOURCE
#include "rig.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

static pid_t handled_by;

static void handle(int number)
{
	(void)number;
	handled_by = gettid();
}

/* Waited for, as by signalfd(2): nobody has a handler. */
static bool is_waited_for(int number)
{
	struct timespec patience = { .tv_sec = 5 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	need(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	need(kill(getpid(), number) == 0);
	return sigtimedwait(&set, NULL, &patience) == number;
}

/* Let through while something else is waited for. */
static bool interrupts(int number)
{
	struct sigaction action = { .sa_handler = handle };
	struct timespec patience = { .tv_sec = 5 };
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, number);
	need(sigprocmask(SIG_BLOCK, &set, &before) == 0);
	need(sigaction(number, &action, NULL) == 0);
	need(kill(getpid(), number) == 0);
	return ppoll(NULL, 0, &patience, &before) == -1 && errno == EINTR;
}

int main(int argc, char **argv)
{
	struct ibv_comp_channel *channel;
	struct setup setup = usual;
	struct ibv_cq *cq;
	struct end a, b;
	void *told;

	rig_open(argc, argv);
	channel = ibv_create_comp_channel(device);
	need(channel);
	setup.channel = channel;
	pair_make(&a, &b, &setup);
	/* Whatever thread there is has run. */
	need(ibv_req_notify_cq(a.send_cq, 0) == 0);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	need(ibv_get_cq_event(channel, &cq, &told) == 0);
	ibv_ack_cq_events(cq, 1);
	expect(a.send_cq, 1);

	yes("SIGTERM is waited for", is_waited_for(SIGTERM));
	yes("SIGCHLD is waited for", is_waited_for(SIGCHLD));
	yes("a real-time signal is waited for", is_waited_for(SIGRTMIN));
	yes("SIGUSR1 interrupts", interrupts(SIGUSR1));
	yes("  the thread that waits", handled_by == getpid());
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	show_next("and all goes on", a.send_cq);
	pair_drop(&a, &b);
	need(ibv_destroy_comp_channel(channel) == 0);
	rig_close();
	return 0;
}
