/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Two processes that talk over a socket pair besides verbs. */
#define _GNU_SOURCE
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct process fork_peer(void)
{
	pid_t parent = getpid(), child;
	int fds[2];

	need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	fflush(stdout);
	child = fork();
	need(child >= 0);
	if (child == 0) {
		need(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
		if (getppid() != parent)
			_exit(1);
		close(fds[0]);
		return (struct process){ .child = 0, .fd = fds[1] };
	}
	close(fds[1]);
	return (struct process){ .child = child, .fd = fds[0] };
}

void tell(int fd, const void *bytes, size_t len)
{
	need(send(fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len);
}

void hear(int fd, void *bytes, size_t len)
{
	uint8_t *to = bytes;

	while (len > 0) {
		ssize_t n = read(fd, to, len);

		if (n < 0 && errno == EINTR)
			continue;
		need(n > 0);
		to += n;
		len -= n;
	}
}

_Noreturn void serve_until_killed(const struct process *parent)
{
	rig_open(0, NULL);
	end_join(parent, &hasty);
	for (;;)
		pause();
}

void kill_peer(const struct process *child)
{
	need(kill(child->child, SIGKILL) == 0);
	need(waitpid(child->child, NULL, 0) == child->child);
}

void stop_peer(const struct process *child)
{
	need(kill(child->child, SIGSTOP) == 0);
	wait_stopped(child);
}

void wait_stopped(const struct process *child)
{
	int status;

	need(waitpid(child->child, &status, WUNTRACED) == child->child && WIFSTOPPED(status));
}

void continue_peer(const struct process *child)
{
	need(kill(child->child, SIGCONT) == 0);
}

void meet(const struct process *other)
{
	char here = 'h', there = 0;

	tell(other->fd, &here, 1);
	hear(other->fd, &there, 1);
	need(there == here);
}

void join(const struct process *child)
{
	int status;

	need(waitpid(child->child, &status, 0) == child->child);
	need(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
