/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SQD, the draining of the send queue: what is under way ends, what comes later waits, an event says when. */
#include "rig.h"

#include <poll.h>

static bool event_within(int milliseconds)
{
	struct pollfd fd = { .fd = device->async_fd, .events = POLLIN };

	return poll(&fd, 1, milliseconds) == 1;
}

static int drain(struct end *end, bool notify)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_SQD, .en_sqd_async_notify = notify };

	return ibv_modify_qp(end->qp, &attr, IBV_QP_STATE | IBV_QP_EN_SQD_ASYNC_NOTIFY);
}

int main(int argc, char **argv)
{
	struct ibv_async_event event = { .event_type = IBV_EVENT_CQ_ERR };
	struct end a, b;

	rig_open(argc, argv);
	pair_make(&a, &b, &usual);

	outcome("drain", drain(&a, true));
	need(event_within(20000));
	need(ibv_get_async_event(device, &event) == 0);
	say("event: %s", ibv_event_type_str(event.event_type));
	yes("  of this queue pair", event.element.qp == a.qp);
	ibv_ack_async_event(&event);

	fill(a.buf, 64, 1);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64 });
	yes("a request is taken, and waits", quiet(a.send_cq, 200) && all(b.buf, 64, 0));

	fill(b.buf + 64, 64, 2);
	post_recv(&a, 11, 1000, 64);
	ask(&b, (struct ask){ .id = 2, .op = IBV_WR_SEND, .at = 64, .len = 64 });
	show_next("the receive queue goes on", a.recv_cq);
	show_next("  the peer", b.send_cq);
	ask(&b, (struct ask){ .id = 3, .op = IBV_WR_RDMA_READ, .at = 2000, .len = 64, .to = 1000 });
	show_next("  and it is read from", b.send_cq);
	yes("  the data is right", filled(b.buf + 2000, 64, 2));

	outcome("on again", end_to(&a, IBV_QPS_RTS));
	show_next("  the request is carried out", a.send_cq);
	yes("  the data is there", filled(b.buf, 64, 1));

	/* A long write is under way, or done: either way it ends, and the event comes after. */
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_RDMA_WRITE, .len = usual.memory });
	outcome("drain behind a request", drain(&a, true));
	need(event_within(20000));
	need(ibv_get_async_event(device, &event) == 0);
	say("event: %s", ibv_event_type_str(event.event_type));
	ibv_ack_async_event(&event);
	outcome("on again", end_to(&a, IBV_QPS_RTS));
	show_next("  the request is carried out", a.send_cq);

	outcome("drain without an event", drain(&a, false));
	yes("  none comes", !event_within(100));
	outcome("to ERR", end_to(&a, IBV_QPS_ERR));
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
