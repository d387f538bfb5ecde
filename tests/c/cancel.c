/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Threads that are cancelled: where they wait for an event they end; where they
 * post and poll they leave all to others. No other verb is a point of
 * cancellation: a thread would end there with the locks that it has.
 */
#define _GNU_SOURCE
#include "rig.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * The points that libc has, as far as a library like this may call them. These
 * stand before libc's own; each says so if the library calls it, in a thread of
 * the program's that may be cancelled.
 */
static bool met;

/* In this thread a read(2) is where it waits for an event. */
static __thread bool waits;

static void look(const char *point, void *caller)
{
	char name[16] = "";
	Dl_info from;
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	prctl(PR_GET_NAME, name);
	/* Not this program, whatever the folder is called that it is in. */
	if (state == PTHREAD_CANCEL_ENABLE && strncmp(name, "dmverbs", 7) && dladdr(caller, &from) &&
	    strstr(basename(from.dli_fname), "verbs")) {
		__atomic_store_n(&met, true, __ATOMIC_RELAXED);
		fprintf(stderr, "%s calls %s()\n", from.dli_fname, point);
	}
	pthread_setcancelstate(state, &state);
}

#define POINT(type, name, parameters, arguments)		\
	type name parameters					\
	{							\
		static type (*next) parameters;			\
								\
		if (!next) {					\
			void *found = dlsym(RTLD_NEXT, #name);	\
								\
			memcpy(&next, &found, sizeof(next));	\
		}						\
		look(#name, __builtin_return_address(0));	\
		return next arguments;				\
	}

POINT(ssize_t, write, (int fd, const void *from, size_t n), (fd, from, n))
POINT(ssize_t, send, (int fd, const void *from, size_t n, int flags), (fd, from, n, flags))
POINT(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
POINT(ssize_t, recv, (int fd, void *to, size_t n, int flags), (fd, to, n, flags))
POINT(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
POINT(ssize_t, preadv2, (int fd, const struct iovec *to, int n, off_t at, int flags), (fd, to, n, at, flags))
POINT(int, connect, (int fd, const struct sockaddr *to, socklen_t n), (fd, to, n))
POINT(int, accept4, (int fd, struct sockaddr *from, socklen_t *n, int flags), (fd, from, n, flags))
POINT(int, close, (int fd), (fd))
POINT(int, poll, (struct pollfd *fds, nfds_t n, int timeout), (fds, n, timeout))
POINT(int, epoll_wait, (int fd, struct epoll_event *events, int n, int timeout), (fd, events, n, timeout))
POINT(ssize_t, getrandom, (void *to, size_t n, unsigned int flags), (to, n, flags))

ssize_t read(int fd, void *to, size_t n)
{
	static ssize_t (*next)(int fd, void *to, size_t n);

	if (!next) {
		void *found = dlsym(RTLD_NEXT, "read");

		memcpy(&next, &found, sizeof(next));
	}
	if (!waits)
		look("read", __builtin_return_address(0));
	return next(fd, to, n);
}

static struct ibv_comp_channel *channel;
static struct end a, b;
static pid_t running;
static int failures;

static bool cancelled(pthread_t thread)
{
	void *result = NULL;

	need(pthread_cancel(thread) == 0);
	need(pthread_join(thread, &result) == 0);
	return result == PTHREAD_CANCELED;
}

static pthread_t start(void *(*work)(void *))
{
	pthread_t thread;

	__atomic_store_n(&running, 0, __ATOMIC_RELAXED);
	need(pthread_create(&thread, NULL, work, NULL) == 0);
	while (!__atomic_load_n(&running, __ATOMIC_ACQUIRE))
		sched_yield();
	return thread;
}

static void runs(void)
{
	__atomic_store_n(&running, gettid(), __ATOMIC_RELEASE);
}

/* The thread that was started has nothing to do but wait. */
static pthread_t asleep(pthread_t thread)
{
	char path[64], state = 0;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)running);
	while (state != 'S') {
		FILE *stat = fopen(path, "r");

		need(stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1);
		fclose(stat);
	}
	return thread;
}

static void *take_event(void *unused)
{
	struct ibv_cq *cq;
	void *context;

	waits = true;
	runs();
	for (;;)
		if (ibv_get_cq_event(channel, &cq, &context) == 0)
			ibv_ack_cq_events(cq, 1);
	return unused;
}

static void *take_async_event(void *unused)
{
	struct ibv_async_event event;

	waits = true;
	runs();
	for (;;)
		if (ibv_get_async_event(device, &event) == 0)
			ibv_ack_async_event(&event);
	return unused;
}

/* It could be cancelled anywhere in it, if verbs let themselves be cancelled. */
static void *work(void *unused)
{
	struct ibv_wc wc[16];

	for (uint64_t id = 0;; id++) {
		int n;

		try_ask(&a, (struct ask){ .id = id, .op = IBV_WR_RDMA_WRITE, .len = 4096 });
		n = ibv_poll_cq(a.send_cq, COUNT(wc), wc);
		need(n >= 0);
		for (int i = 0; i < n; i++)
			if (wc[i].status != IBV_WC_SUCCESS)
				__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
		runs();
		pthread_testcancel();
	}
	return unused;
}

/* With `dmverbs run`, not libc's open() comes first. */
static void *open_files(void *unused)
{
	for (;;) {
		int fd = open("/dev/null", O_RDONLY);

		need(fd >= 0);
		syscall(SYS_close, fd);
		runs();
	}
	return unused;
}

static void drain(void)
{
	struct ask last = { .id = UINT64_MAX, .op = IBV_WR_RDMA_WRITE, .len = 8 };
	struct ibv_wc wc = { 0 };

	while (try_ask(&a, last) == ENOMEM)
		need(poll_one(a.send_cq).status == IBV_WC_SUCCESS);
	while (wc.wr_id != UINT64_MAX) {
		wc = poll_one(a.send_cq);
		need(wc.status == IBV_WC_SUCCESS);
	}
}

int main(int argc, char **argv)
{
	struct process child = fork_peer();
	struct setup setup = usual;
	struct ibv_cq *cq = NULL;
	void *context;
	pthread_t thread;

	if (child.child == 0)
		serve_until_killed(&child);
	rig_open(argc, argv);
	channel = ibv_create_comp_channel(device);
	need(channel);
	setup.channel = channel;
	pair_make(&a, &b, &setup);

	yes("a thread that waits for a completion event can be cancelled", cancelled(asleep(start(take_event))));
	need(ibv_req_notify_cq(a.send_cq, 0) == 0);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	waits = true;
	yes("  the next event is another's", ibv_get_cq_event(channel, &cq, &context) == 0 && cq == a.send_cq);
	waits = false;
	ibv_ack_cq_events(cq, 1);
	expect(a.send_cq, 1);
	yes("one that waits for an asynchronous event can", cancelled(asleep(start(take_async_event))));

	yes("one that opens files can, too", cancelled(start(open_files)));

	for (int i = 0; i < 50; i++)
		need(cancelled(start(work)));
	drain();
	say("threads that post and poll are cancelled, and another posts and polls");

	pair_drop(&a, &b);

	/* The peer of one that does is killed. */
	a = end_join(&child, &hasty);
	thread = start(work);
	kill_peer(&child);
	while (__atomic_load_n(&failures, __ATOMIC_RELAXED) < 1000)
		sched_yield();
	need(cancelled(thread));
	end_drop(&a);
	need(ibv_destroy_comp_channel(channel) == 0);
	rig_close();
	/* On rdma-core's provider for rxe posting is a write(2), outside of all locks. */
	yes("no other verb is a point of cancellation", !met || getenv("VERBS_TEST_LENIENT"));
	return 0;
}
