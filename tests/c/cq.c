/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Completion queues: full ones, those that are resized, shared ones. */
#include "rig.h"

#include <poll.h>
#include <stdlib.h>

/* Where a and its receives complete; a's own sends go elsewhere. */
static struct end end_with(struct ibv_cq *recv_cq)
{
	struct setup setup = usual;

	setup.recv_cq = recv_cq;
	setup.cap.max_recv_wr = 512;
	return end_make(&setup);
}

/* More flushed receives than the queue holds: it is dead, and says so by an event. */
static void overrun(void)
{
	struct ibv_cq *cq = ibv_create_cq(device, 4, NULL, NULL, 0);
	struct ibv_async_event event = { .event_type = IBV_EVENT_QP_FATAL };
	struct pollfd fd = { .fd = device->async_fd, .events = POLLIN };
	struct end a;

	need(cq);
	a = end_with(cq);
	need((uint32_t)cq->cqe < a.setup.cap.max_recv_wr);
	need(end_to_init(&a) == 0);
	for (int i = 0; i <= cq->cqe; i++)
		post_recv(&a, i, 0, 8);
	need(end_to(&a, IBV_QPS_ERR) == 0);
	need(poll(&fd, 1, 20000) == 1);
	need(ibv_get_async_event(device, &event) == 0);
	say("one completion too many: %s", ibv_event_type_str(event.event_type));
	yes("  of this queue", event.element.cq == cq);
	ibv_ack_async_event(&event);
	yes("  it is reported once", poll(&fd, 1, 50) == 0);
	end_drop(&a);
	outcome("  the queue can be destroyed", ibv_destroy_cq(cq));
}

/* Exactly as many as fit. */
static void filled_up(void)
{
	struct ibv_cq *cq = ibv_create_cq(device, 4, NULL, NULL, 0);
	struct ibv_wc wc[512];
	struct end a;
	bool right = true;
	int n;

	need(cq && (size_t)cq->cqe < COUNT(wc));
	a = end_with(cq);
	need(end_to_init(&a) == 0);
	for (int i = 0; i < cq->cqe; i++)
		post_recv(&a, i, 0, 8);
	need(end_to(&a, IBV_QPS_ERR) == 0);
	for (n = 0; n < cq->cqe;) {
		int got = ibv_poll_cq(cq, COUNT(wc) - n, wc + n);

		need(got >= 0);
		n += got;
	}
	for (int i = 0; i < n; i++)
		right = right && wc[i].wr_id == (uint64_t)i;
	yes("a queue holds as many as it says, and gives them in order", right && n == cq->cqe);
	yes("poll for none gives none", ibv_poll_cq(cq, 0, wc) == 0);
	end_drop(&a);
	need(ibv_destroy_cq(cq) == 0);
}

static void resized(void)
{
	struct ibv_device_attr attr;
	struct ibv_cq *cq = ibv_create_cq(device, 16, NULL, NULL, 0);
	struct end a;

	need(cq && ibv_query_device(device, &attr) == 0);
	a = end_with(cq);
	need(end_to_init(&a) == 0);
	for (uint64_t i = 0; i < 10; i++)
		post_recv(&a, i, 0, 8);
	need(end_to(&a, IBV_QPS_ERR) == 0);
	need(poll_one(cq).wr_id == 0);
	outcome("grow", ibv_resize_cq(cq, 200));
	yes("  it says so", cq->cqe >= 200);
	need(poll_one(cq).wr_id == 1);
	outcome("fewer entries than are held", ibv_resize_cq(cq, 2));
	outcome("no entries", ibv_resize_cq(cq, 0));
	outcome("more entries than there can be", ibv_resize_cq(cq, attr.max_cqe + 1));
	yes("  it is as before", cq->cqe >= 200);
	for (int i = 10; i < 190; i++)
		post_recv(&a, i, 0, 8);
	for (uint64_t i = 2; i < 190; i++)
		need(poll_one(cq).wr_id == i);
	say("nothing was lost");
	outcome("shrink", ibv_resize_cq(cq, 16));
	end_drop(&a);
	need(ibv_destroy_cq(cq) == 0);
}

/* Both queues of several queue pairs on one completion queue: the order is kept for each queue. */
static void shared(void)
{
	struct ibv_cq *cq = ibv_create_cq(device, 1024, NULL, NULL, 0);
	struct setup setup = usual;
	struct end a[4], b[4];
	uint64_t sent[4] = { 0 }, received[4] = { 0 };
	bool right = true;

	need(cq);
	setup.send_cq = setup.recv_cq = cq;
	for (int i = 0; i < 4; i++)
		pair_make(&a[i], &b[i], &setup);
	for (uint64_t n = 0; n < 32; n++) {
		for (int i = 0; i < 4; i++) {
			post_recv(&b[i], 100 * i + n, 0, 64);
			ask(&a[i], (struct ask){ .id = 100 * i + n, .op = IBV_WR_SEND, .len = 64 });
		}
	}
	for (int n = 0; n < 4 * 32 * 2; n++) {
		struct ibv_wc wc = poll_one(cq);
		uint64_t i = wc.wr_id / 100, *next = wc.opcode & IBV_WC_RECV ? &received[i] : &sent[i];
		uint32_t qpn = wc.opcode & IBV_WC_RECV ? b[i].qp->qp_num : a[i].qp->qp_num;

		right = right && wc.status == IBV_WC_SUCCESS && wc.qp_num == qpn && wc.wr_id % 100 == (*next)++;
	}
	yes("8 queue pairs share one queue, and each keeps its order", right && quiet(cq, 20));
	for (int i = 0; i < 4; i++)
		pair_drop(&a[i], &b[i]);
	need(ibv_destroy_cq(cq) == 0);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	overrun();
	filled_up();
	resized();
	shared();
	rig_close();
	return 0;
}
