/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Registered memory is no longer there when a peer touches it: where the library copies the process ends, where the kernel
 * does the connection. Of much payload it may be either. The peer hears of it.
 */
#define _GNU_SOURCE
#include "rig.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LEN = 1 << 20 };

static struct setup large(void)
{
	struct setup setup = hasty;

	setup.memory = LEN;
	return setup;
}

/* Registers memory of a file, and then takes it away. */
static _Noreturn void serve(const struct process *parent, bool unmaps)
{
	int file = memfd_create("gone", MFD_CLOEXEC);
	struct address told = { 0 };
	struct setup setup = large();
	struct ibv_mr *mr;
	struct end end;
	void *memory;

	need(setrlimit(RLIMIT_CORE, &(struct rlimit){ 0 }) == 0);
	rig_open(0, NULL);
	end = end_join(parent, &setup);
	need(file >= 0 && ftruncate(file, LEN) == 0);
	memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	need(memory != MAP_FAILED);
	mr = ibv_reg_mr(end.pd, memory, LEN, end.setup.access);
	need(mr);
	if (unmaps)
		need(munmap(memory, LEN) == 0);
	else
		need(ftruncate(file, 0) == 0);
	told.addr = (uintptr_t)memory;
	told.rkey = mr->rkey;
	tell(parent->fd, &told, sizeof(told));
	for (;;)
		pause();
}

static void touch(enum ibv_wr_opcode op, size_t len, bool unmaps)
{
	struct process child = fork_peer();
	struct setup setup = large();
	struct address told;
	struct end end;
	int status;

	if (child.child == 0)
		serve(&child, unmaps);
	rig_open(0, NULL);
	end = end_join(&child, &setup);
	hear(child.fd, &told, sizeof(told));
	ask(&end, (struct ask){ .id = 1, .op = op, .len = len, .remote_addr = told.addr, .rkey = told.rkey });
	show_next(op == IBV_WR_RDMA_READ ? "READ" : "WRITE", end.send_cq);
	if (len == LEN)
		kill(child.child, SIGTERM);
	need(waitpid(child.child, &status, 0) == child.child && WIFSIGNALED(status));
	if (len < LEN)
		say("  the peer has ended by SIG%s", sigabbrev_np(WTERMSIG(status)));
	else
		need(WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGBUS || WTERMSIG(status) == SIGSEGV);
	close(child.fd);
	end_drop(&end);
	rig_close();
}

int main(void)
{
	for (int unmaps = 0; unmaps < 2; unmaps++) {
		say(unmaps ? "unmapped" : "a file that was cut off");
		touch(IBV_WR_RDMA_WRITE, 64, unmaps);
		touch(IBV_WR_RDMA_WRITE, LEN, unmaps);
		touch(IBV_WR_RDMA_READ, 64, unmaps);
		touch(IBV_WR_RDMA_READ, LEN, unmaps);
	}
	return 0;
}
