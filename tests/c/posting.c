/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the state of a queue pair means for requests: which are taken, kept, carried out, flushed or forgotten. */
#include "rig.h"

static struct ask send_of(uint64_t id)
{
	return (struct ask){ .id = id, .op = IBV_WR_SEND, .len = 8 };
}

static void before_ready(void)
{
	struct end a = end_make(&usual), b = end_make(&usual);

	outcome("send in RESET", try_ask(&a, send_of(1)));
	outcome("receive in RESET", try_recv(&a, 1, 0, 8));
	need(end_to_init(&a) == 0);
	outcome("send in INIT", try_ask(&a, send_of(1)));
	outcome("receive in INIT", try_recv(&a, 11, 100, 8));
	need(end_to_rtr(&a, &b.self) == 0);
	outcome("send in RTR", try_ask(&a, send_of(1)));
	outcome("receive in RTR", try_recv(&a, 12, 200, 8));

	/* The peer is ready to send: what it sends must arrive, though we can't send yet. */
	end_connect(&b, &a.self);
	fill(b.buf, 8, 1);
	ask(&b, send_of(2));
	show_next("the peer sends", b.send_cq);
	show_next("  received", a.recv_cq);
	yes("  the data is there", filled(a.buf + 100, 8, 1));
	need(end_to_rts(&a) == 0);
	post_recv(&b, 13, 300, 8);
	ask(&a, send_of(3));
	show_next("ready to send", a.send_cq);
	show_next("  received", b.recv_cq);
	pair_drop(&a, &b);
}

static void in_error(void)
{
	struct end a, b;
	bool right = true;

	pair_make(&a, &b, &usual);
	/* Nothing is posted at b: the sends wait. */
	for (uint64_t i = 0; i < 5; i++) {
		struct ask request = send_of(i);

		request.unsignaled = i % 2;
		ask(&a, request);
		post_recv(&a, 10 + i, 0, 8);
	}
	yes("sends wait for receives", quiet(a.send_cq, 50));
	need(end_to(&a, IBV_QPS_ERR) == 0);
	for (uint64_t i = 0; i < 5; i++) {
		struct ibv_wc sent = poll_one(a.send_cq), received = poll_one(a.recv_cq);

		right = right && sent.wr_id == i && received.wr_id == 10 + i &&
			sent.status == IBV_WC_WR_FLUSH_ERR && received.status == IBV_WC_WR_FLUSH_ERR &&
			sent.qp_num == a.qp->qp_num && received.qp_num == a.qp->qp_num;
	}
	yes("in ERR both queues are flushed in order", right);
	ask(&a, send_of(20));
	post_recv(&a, 21, 0, 8);
	show_next("send in ERR", a.send_cq);
	show_next("receive in ERR", a.recv_cq);
	yes("nothing else completes", quiet(a.send_cq, 20) && quiet(a.recv_cq, 0));
	pair_drop(&a, &b);
}

static void forgotten(void)
{
	struct end a, b;

	pair_make(&a, &b, &usual);
	post_recv(&a, 11, 0, 8);
	/* Too short for what is sent below, if it were still there. */
	post_recv(&b, 12, 0, 4);
	outcome("one end to RESET", end_to(&a, IBV_QPS_RESET));
	outcome("the other end to RESET", end_to(&b, IBV_QPS_RESET));
	yes("nothing completes", quiet(a.send_cq, 50) && quiet(a.recv_cq, 0) && quiet(b.send_cq, 0) &&
	    quiet(b.recv_cq, 0));
	end_connect(&a, &b.self);
	end_connect(&b, &a.self);
	fill(a.buf, 8, 3);
	post_recv(&b, 13, 0, 8);
	ask(&a, send_of(2));
	show_next("connected again", a.send_cq);
	show_next("  received", b.recv_cq);
	yes("  the data is there", filled(b.buf, 8, 3));
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	before_ready();
	in_error();
	forgotten();
	rig_close();
	return 0;
}
