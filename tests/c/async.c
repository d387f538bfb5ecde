/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asynchronous events: waiting, polling the descriptor, acknowledging. */
#include "rig.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

static struct end a, b;

static int drain(void)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_SQD, .en_sqd_async_notify = 1 };

	return ibv_modify_qp(a.qp, &attr, IBV_QP_STATE | IBV_QP_EN_SQD_ASYNC_NOTIFY);
}

static bool readable(int milliseconds)
{
	struct pollfd fd = { .fd = device->async_fd, .events = POLLIN };

	return poll(&fd, 1, milliseconds) == 1;
}

static void *wait_for_one(void *result)
{
	struct ibv_async_event event;

	need(ibv_get_async_event(device, &event) == 0);
	*(bool *)result = event.event_type == IBV_EVENT_SQ_DRAINED && event.element.qp == a.qp;
	ibv_ack_async_event(&event);
	return NULL;
}

static void waiting(void)
{
	bool right = false;
	pthread_t thread;

	need(pthread_create(&thread, NULL, wait_for_one, &right) == 0);
	need(drain() == 0);
	need(pthread_join(thread, NULL) == 0);
	yes("a thread that waits gets the event", right);
	need(end_to(&a, IBV_QPS_RTS) == 0);
}

static void polling(void)
{
	int flags = fcntl(device->async_fd, F_GETFL);
	struct ibv_async_event event;

	need(fcntl(device->async_fd, F_SETFL, flags | O_NONBLOCK) == 0);
	yes("without an event the descriptor is not readable", !readable(50));
	errno = 0;
	outcome("  and ibv_get_async_event does not block", errno_if(ibv_get_async_event(device, &event) != 0));
	need(drain() == 0);
	yes("with one it is readable", readable(20000));
	outcome("  and ibv_get_async_event gives it", errno_if(ibv_get_async_event(device, &event) != 0));
	ibv_ack_async_event(&event);
	yes("then it is not readable again", !readable(50));
	need(fcntl(device->async_fd, F_SETFL, flags) == 0);
	need(end_to(&a, IBV_QPS_RTS) == 0);
}

static void *destroy(void *done)
{
	need(ibv_destroy_qp(a.qp) == 0);
	__atomic_store_n((bool *)done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void acknowledged(void)
{
	static bool done;
	struct ibv_async_event event;
	pthread_t thread;

	need(drain() == 0);
	need(ibv_get_async_event(device, &event) == 0);
	need(pthread_create(&thread, NULL, destroy, &done) == 0);
	poll(NULL, 0, 100);
	yes("destroying a queue pair waits for the acknowledgement", !__atomic_load_n(&done, __ATOMIC_ACQUIRE));
	ibv_ack_async_event(&event);
	need(pthread_join(thread, NULL) == 0);
	yes("  and goes on when it is there", done);
}

/* Nobody has taken the event: it goes with the queue pair. */
static void forgotten(void)
{
	struct end c, d;

	pair_make(&c, &d, &usual);
	a.qp = c.qp;
	need(drain() == 0);
	need(readable(20000));
	pair_drop(&c, &d);
	yes("events of a destroyed queue pair are gone", !readable(50));
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	waiting();
	polling();
	acknowledged();
	need(ibv_destroy_cq(a.send_cq) == 0 && ibv_destroy_cq(a.recv_cq) == 0);
	need(ibv_dereg_mr(a.mr) == 0 && ibv_dealloc_pd(a.pd) == 0);
	end_drop(&b);
	forgotten();
	rig_close();
	return 0;
}
