/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Completion channels: arming, solicited events, waiting, acknowledging. */
#include "rig.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

static struct ibv_comp_channel *channel;
static struct ibv_cq *cq;	/* the one on the channel: where b's receives complete */
static struct end a, b;
static int context;

static bool readable(int milliseconds)
{
	struct pollfd fd = { .fd = channel->fd, .events = POLLIN };

	return poll(&fd, 1, milliseconds) == 1;
}

/* Waits for an event; true if it is the right queue's. */
static bool take(void)
{
	struct ibv_cq *found = NULL;
	void *given = NULL;

	need(readable(20000));
	need(ibv_get_cq_event(channel, &found, &given) == 0);
	ibv_ack_cq_events(found, 1);
	return found == cq && given == &context;
}

static void send_one(uint64_t id, unsigned int flags)
{
	post_recv(&b, id, 0, 64);
	ask(&a, (struct ask){ .id = id, .op = IBV_WR_SEND, .len = 64, .flags = flags });
	expect(a.send_cq, id);
}

static void any(void)
{
	send_one(1, 0);
	yes("a queue that is not armed gives no event", !readable(50));
	expect(cq, 1);

	outcome("arm", ibv_req_notify_cq(cq, 0));
	yes("  no event comes by itself", !readable(50));
	send_one(2, 0);
	yes("  a completion gives an event, with the queue and its context", take());
	send_one(3, 0);
	yes("  the next one gives none, for arming is for one event", !readable(50));
	expect(cq, 2);
	expect(cq, 3);
}

static void solicited(void)
{
	outcome("arm for solicited completions", ibv_req_notify_cq(cq, 1));
	send_one(4, 0);
	yes("  another completion gives no event", !readable(50));
	send_one(5, IBV_SEND_SOLICITED);
	yes("  a solicited one does", take());
	need(ibv_req_notify_cq(cq, 1) == 0);
	post_recv(&b, 6, 0, 0);
	ask(&a, (struct ask){ .id = 6, .op = IBV_WR_RDMA_WRITE_WITH_IMM, .len = 8, .flags = IBV_SEND_SOLICITED });
	yes("  so does a write with immediate data", take());
	expect(a.send_cq, 6);
	for (uint64_t id = 4; id <= 6; id++)
		expect(cq, id);

	need(ibv_req_notify_cq(cq, 1) == 0);
	outcome("widen the request to all completions", ibv_req_notify_cq(cq, 0));
	send_one(7, 0);
	yes("  an unsolicited one gives an event", take());
	expect(cq, 7);
}

/* Arm, poll until empty, wait: whatever comes in between is seen either by polling or by the event. */
static void idiom(void)
{
	uint64_t next = 0;
	bool right = true;

	for (uint64_t i = 0; i < 300; i++) {
		struct ibv_wc wc;

		post_recv(&b, i, 0, 64);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_SEND, .len = 64 });
		while (next <= i) {
			need(ibv_req_notify_cq(cq, 0) == 0);
			while (ibv_poll_cq(cq, 1, &wc) == 1) {
				right = right && wc.wr_id == next && wc.status == IBV_WC_SUCCESS;
				next++;
			}
			if (next <= i)
				right = right && take();
		}
		expect(a.send_cq, i);
	}
	yes("arm, poll, wait misses nothing", right);
	/* The queue may be armed, or have given an event that nobody needed. */
	while (readable(20))
		take();
}

static void *wait_blocked(void *result)
{
	struct ibv_cq *found;
	void *given;

	*(bool *)result = ibv_get_cq_event(channel, &found, &given) == 0 && found == cq;
	ibv_ack_cq_events(cq, 1);
	return NULL;
}

static void blocked(void)
{
	bool got = false;
	pthread_t thread;

	need(ibv_req_notify_cq(cq, 0) == 0);
	need(pthread_create(&thread, NULL, wait_blocked, &got) == 0);
	send_one(8, 0);
	need(pthread_join(thread, NULL) == 0);
	yes("a thread that waits in ibv_get_cq_event is woken", got);
	expect(cq, 8);
}

static void nonblocking(void)
{
	int flags = fcntl(channel->fd, F_GETFL);
	struct ibv_cq *found;
	void *given;

	need(fcntl(channel->fd, F_SETFL, flags | O_NONBLOCK) == 0);
	errno = 0;
	outcome("ibv_get_cq_event on a nonblocking channel without events",
		errno_if(ibv_get_cq_event(channel, &found, &given) != 0));
	need(fcntl(channel->fd, F_SETFL, flags) == 0);
}

/* A completion with an error counts as solicited. */
static void failed(void)
{
	struct ibv_wc wc;

	need(ibv_req_notify_cq(cq, 1) == 0);
	post_recv(&b, 9, 0, 64);
	need(end_to(&b, IBV_QPS_ERR) == 0);
	yes("a flushed receive gives an event to who waits for solicited ones", take());
	wc = poll_one(cq);
	show("  it is there", &wc);
}

static void *destroy(void *done)
{
	need(ibv_destroy_cq(cq) == 0);
	__atomic_store_n((bool *)done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Two events taken, acknowledged together, and only after the queue's owner wants to destroy it. */
static void acknowledged(void)
{
	static bool done;
	struct ibv_cq *found;
	void *given;
	pthread_t thread;
	uint64_t soon;

	for (int i = 0; i < 2; i++) {
		need(ibv_req_notify_cq(cq, 0) == 0);
		post_recv(&b, 10 + i, 0, 64);
		need(ibv_get_cq_event(channel, &found, &given) == 0);
		need(poll_one(cq).status == IBV_WC_WR_FLUSH_ERR);
	}
	outcome("destroy the queue pair", ibv_destroy_qp(b.qp));
	need(pthread_create(&thread, NULL, destroy, &done) == 0);
	for (soon = now_ms() + 100; now_ms() < soon;)
		poll(NULL, 0, 10);
	yes("destroying the completion queue waits for acknowledgements", !__atomic_load_n(&done, __ATOMIC_ACQUIRE));
	ibv_ack_cq_events(cq, 2);
	need(pthread_join(thread, NULL) == 0);
	yes("  and goes on when they are there", done);
}

int main(int argc, char **argv)
{
	struct setup setup = usual;

	rig_open(argc, argv);
	channel = ibv_create_comp_channel(device);
	need(channel);
	yes("a channel has a descriptor and belongs to the device", channel->fd >= 0 && channel->context == device);
	cq = ibv_create_cq(device, 512, &context, channel, 0);
	need(cq);
	yes("a queue knows its channel and its context", cq->channel == channel && cq->cq_context == &context);
	a = end_make(&usual);
	setup.recv_cq = cq;
	b = end_make(&setup);
	end_connect(&a, &b.self);
	end_connect(&b, &a.self);

	any();
	solicited();
	idiom();
	blocked();
	nonblocking();
	failed();
	acknowledged();

	need(ibv_destroy_cq(b.send_cq) == 0);
	need(ibv_dereg_mr(b.mr) == 0);
	need(ibv_dealloc_pd(b.pd) == 0);
	end_drop(&a);
	outcome("destroy the channel", ibv_destroy_comp_channel(channel));
	rig_close();
	return 0;
}
