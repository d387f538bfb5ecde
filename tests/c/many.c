/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* 1,024 queue pairs between two processes: they connect soon, carry data, and cost little while nothing happens. */
#include "rig.h"

#include <dirent.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MANY = 1024 };

static struct end ends[MANY];

/* The queue pairs share two queues, so that what is counted is theirs alone. */
static struct setup sparing(void)
{
	struct setup setup = usual;

	setup.memory = 4096;
	setup.cap = (struct ibv_qp_cap){ .max_send_wr = 128, .max_recv_wr = 128, .max_send_sge = 1, .max_recv_sge = 1 };
	setup.send_cq = ibv_create_cq(device, MANY, NULL, NULL, 0);
	setup.recv_cq = ibv_create_cq(device, MANY, NULL, NULL, 0);
	need(setup.send_cq && setup.recv_cq);
	return setup;
}

static void allow_files(void)
{
	struct rlimit files;

	need(getrlimit(RLIMIT_NOFILE, &files) == 0);
	files.rlim_cur = files.rlim_max;
	need(setrlimit(RLIMIT_NOFILE, &files) == 0);
}

/* Bytes of this process that are in memory. */
static size_t resident(void)
{
	size_t total, pages;
	FILE *statm = fopen("/proc/self/statm", "r");

	need(statm && fscanf(statm, "%zu %zu", &total, &pages) == 2);
	fclose(statm);
	return pages * sysconf(_SC_PAGESIZE);
}

static bool is_tcp(int fd)
{
	int protocol;
	socklen_t len = sizeof(protocol);

	return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 && protocol == IPPROTO_TCP;
}

/* TCP sockets of this process that listen. */
static int listening(void)
{
	DIR *fds = opendir("/proc/self/fd");
	int count = 0;

	need(fds);
	for (struct dirent *entry = readdir(fds); entry; entry = readdir(fds)) {
		int fd = atoi(entry->d_name), listens;
		socklen_t len = sizeof(listens);

		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens && is_tcp(fd))
			count++;
	}
	closedir(fds);
	return count;
}

static void connect_all(const struct process *other, const struct setup *setup)
{
	for (int i = 0; i < MANY; i++)
		ends[i] = end_join(other, setup);
}

static void drop_all(const struct setup *setup)
{
	for (int i = 0; i < MANY; i++)
		end_drop(&ends[i]);
	need(ibv_destroy_cq(setup->send_cq) == 0 && ibv_destroy_cq(setup->recv_cq) == 0);
	rig_close();
}

/* A WRITE of each, all under way at once. */
static bool write_all(void)
{
	bool good = true;

	for (int i = 0; i < MANY; i++) {
		fill(ends[i].buf, 64, i);
		ask(&ends[i], (struct ask){ .id = i, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	}
	for (int i = 0; i < MANY; i++)
		good = good && poll_one(ends[0].send_cq).status == IBV_WC_SUCCESS;
	return good;
}

static void serve(const struct process *parent)
{
	struct setup setup;
	bool right = true;

	rig_open(0, NULL);
	setup = sparing();
	connect_all(parent, &setup);
	meet(parent);
	for (int i = 0; i < MANY; i++)
		right = right && filled(ends[i].buf, 64, i);
	tell(parent->fd, &right, sizeof(right));
	meet(parent);
	drop_all(&setup);
}

int main(int argc, char **argv)
{
	struct process child;
	struct setup setup;
	uint64_t start;
	size_t before;
	bool right;

	allow_files();
	child = fork_peer();
	if (child.child == 0) {
		serve(&child);
		return 0;
	}
	rig_open(argc, argv);
	setup = sparing();
	start = now_ms();
	before = resident();
	connect_all(&child, &setup);
	fprintf(stderr, "connected after %llu ms, %zu bytes for each\n", (unsigned long long)(now_ms() - start),
		(resident() - before) / MANY);
	/* Each has a page of registered memory, which nobody has touched. */
	yes("an idle queue pair takes less than 64 KiB", resident() - before < (size_t)MANY * (64 << 10));
	yes("a write of each completes", write_all());
	yes("all within 5 s", now_ms() - start < 5000);
	yes("256 of them share a port", listening() == MANY / 256);
	meet(&child);
	hear(child.fd, &right, sizeof(right));
	yes("the data is right", right);
	meet(&child);
	join(&child);
	drop_all(&setup);
	return 0;
}
