/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The states of a queue pair: which transitions there are, what each needs, and what is remembered. */
#include "rig.h"

#include <string.h>

static const char *name(enum ibv_qp_state state)
{
	static const char *const names[] = { "RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR" };

	return state < COUNT(names) ? names[state] : "another";
}

static struct ibv_qp_attr query(const struct end *end)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;

	memset(&attr, 0xa5, sizeof(attr));
	need(ibv_query_qp(end->qp, &attr, IBV_QP_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
			  IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
			  IBV_QP_RQ_PSN | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC |
			  IBV_QP_MIN_RNR_TIMER | IBV_QP_DEST_QPN | IBV_QP_CAP, &init) == 0);
	need(init.send_cq == end->send_cq && init.recv_cq == end->recv_cq && init.qp_type == IBV_QPT_RC);
	need(end->qp->state == attr.qp_state);
	need(attr.cap.max_send_wr == end->setup.cap.max_send_wr && init.cap.max_recv_sge == end->setup.cap.max_recv_sge);
	return attr;
}

static void way_up(struct end *a, const struct end *b)
{
	struct ibv_qp_attr attr;

	say("created: %s", name(query(a).qp_state));
	outcome("RESET to INIT", end_to_init(a));
	attr = query(a);
	say("  is %s", name(attr.qp_state));
	yes("  rights, partition and port are remembered", attr.qp_access_flags == a->setup.access &&
	    attr.pkey_index == 0 && attr.port_num == 1);
	/* One of them is none that is known to everybody. */
	outcome("INIT to INIT, with other rights", ibv_modify_qp(a->qp,
		&(struct ibv_qp_attr){ .qp_state = IBV_QPS_INIT, .qp_access_flags = IBV_ACCESS_REMOTE_READ | 1 << 9 },
		IBV_QP_STATE | IBV_QP_ACCESS_FLAGS));
	yes("  they are remembered", (query(a).qp_access_flags & ~(1U << 9)) == IBV_ACCESS_REMOTE_READ);
	outcome("INIT to RTR", end_to_rtr(a, &b->self));
	attr = query(a);
	say("  is %s", name(attr.qp_state));
	yes("  the peer is remembered", attr.dest_qp_num == b->self.qpn && attr.rq_psn == b->self.psn &&
	    memcmp(&attr.ah_attr.grh.dgid, &b->self.gid, sizeof(gid)) == 0 && attr.ah_attr.is_global == 1 &&
	    attr.ah_attr.grh.sgid_index == gid_index && attr.ah_attr.port_num == 1);
	yes("  so are the MTU, the timer and the depth", attr.path_mtu == port.active_mtu &&
	    attr.min_rnr_timer == a->setup.min_rnr_timer && attr.max_dest_rd_atomic == a->setup.rd_atomic);
	outcome("RTR to RTS", end_to_rts(a));
	attr = query(a);
	say("  is %s", name(attr.qp_state));
	yes("  timeout, retries, PSN and depth are remembered", attr.timeout == a->setup.timeout &&
	    attr.retry_cnt == a->setup.retry_cnt && attr.rnr_retry == a->setup.rnr_retry &&
	    attr.sq_psn == a->self.psn && attr.max_rd_atomic == a->setup.rd_atomic);
	outcome("RTS to RTS, with another timer", ibv_modify_qp(a->qp,
		&(struct ibv_qp_attr){ .qp_state = IBV_QPS_RTS, .min_rnr_timer = 5 },
		IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER));
	yes("  it is remembered", query(a).min_rnr_timer == 5);
	outcome("RTS to SQD", end_to(a, IBV_QPS_SQD));
	say("  is %s", name(query(a).qp_state));
	outcome("SQD to RTS", end_to(a, IBV_QPS_RTS));
	say("  is %s", name(query(a).qp_state));
	outcome("RTS to ERR", end_to(a, IBV_QPS_ERR));
	say("  is %s", name(query(a).qp_state));
	outcome("ERR to ERR", end_to(a, IBV_QPS_ERR));
	outcome("ERR to RESET", end_to(a, IBV_QPS_RESET));
	say("  is %s", name(query(a).qp_state));
}

/* An end in this state, never to be used for anything. */
static struct end end_in(enum ibv_qp_state state, const struct end *peer)
{
	struct end end = end_make(&usual);

	if (state == IBV_QPS_RESET)
		return end;
	need(end_to_init(&end) == 0);
	if (state == IBV_QPS_INIT)
		return end;
	if (state == IBV_QPS_ERR) {
		need(end_to(&end, IBV_QPS_ERR) == 0);
		return end;
	}
	need(end_to_rtr(&end, &peer->self) == 0);
	if (state == IBV_QPS_RTR)
		return end;
	need(end_to_rts(&end) == 0);
	if (state == IBV_QPS_SQD)
		need(end_to(&end, IBV_QPS_SQD) == 0);
	return end;
}

static int go(struct end *end, enum ibv_qp_state to, const struct end *peer)
{
	if (to == IBV_QPS_INIT)
		return end_to_init(end);
	if (to == IBV_QPS_RTR)
		return end_to_rtr(end, &peer->self);
	if (to == IBV_QPS_RTS)
		return end_to_rts(end);
	return end_to(end, to);
}

/*
 * Prints the transitions that are refused; those that are not printed work. The attributes are those of the way up,
 * hence RTS cannot be reached from RTS and SQD. Whether a queue pair in RESET can go to ERR is not asked: the
 * InfiniBand specification says that it can, Linux that it cannot.
 */
static void every_pair(const struct end *peer)
{
	static const enum ibv_qp_state states[] = {
		IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_SQD, IBV_QPS_ERR,
	};

	for (size_t from = 0; from < COUNT(states); from++) {
		for (size_t to = 0; to < COUNT(states); to++) {
			struct end end = end_in(states[from], peer);
			int error;

			if (states[from] == IBV_QPS_RESET && states[to] == IBV_QPS_ERR) {
				end_drop(&end);
				continue;
			}
			error = go(&end, states[to], peer);
			if (error) {
				say("%s to %s: %s", name(states[from]), name(states[to]), error == EINVAL ? "EINVAL" : "?");
				need(query(&end).qp_state == states[from]);
			}
			end_drop(&end);
		}
	}
}

/* It never was ready to send. */
static void posted_in_error(const struct end *peer)
{
	struct end end = end_in(IBV_QPS_ERR, peer);

	ask(&end, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	show_next("posted in ERR", end.send_cq);
	end_drop(&end);
}

static void attributes(const struct end *peer)
{
	struct end end = end_in(IBV_QPS_RESET, peer);
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1 };
	int init = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;

	outcome("INIT without a partition", ibv_modify_qp(end.qp, &attr, init & ~IBV_QP_PKEY_INDEX));
	outcome("INIT without a port", ibv_modify_qp(end.qp, &attr, init & ~IBV_QP_PORT));
	outcome("INIT without rights", ibv_modify_qp(end.qp, &attr, init & ~IBV_QP_ACCESS_FLAGS));
	outcome("INIT with a peer", ibv_modify_qp(end.qp, &attr, init | IBV_QP_DEST_QPN));
	outcome("INIT with a Q_Key, which a datagram queue pair has", ibv_modify_qp(end.qp, &attr, init | IBV_QP_QKEY));
	attr.port_num = 0;
	outcome("INIT with port 0", ibv_modify_qp(end.qp, &attr, init));
	attr.port_num = 2;
	outcome("INIT with port 2", ibv_modify_qp(end.qp, &attr, init));
	say("  is %s still", name(query(&end).qp_state));
	attr.port_num = 1;
	need(ibv_modify_qp(end.qp, &attr, init) == 0);
	attr.qp_state = IBV_QPS_RTR;
	outcome("RTR without a peer", ibv_modify_qp(end.qp, &attr, IBV_QP_STATE));
	say("  is %s still", name(query(&end).qp_state));
	need(end_to_rtr(&end, &peer->self) == 0);
	attr.qp_state = IBV_QPS_RTS;
	outcome("RTS without timeout and retries", ibv_modify_qp(end.qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN));
	say("  is %s still", name(query(&end).qp_state));
	attr.qp_state = 17;
	outcome("a state that does not exist", ibv_modify_qp(end.qp, &attr, IBV_QP_STATE));
	end_drop(&end);
}

int main(int argc, char **argv)
{
	struct end a, b;

	rig_open(argc, argv);
	a = end_make(&usual);
	b = end_make(&usual);
	way_up(&a, &b);
	every_pair(&b);
	posted_in_error(&b);
	attributes(&b);
	end_drop(&a);
	end_drop(&b);
	rig_close();
	return 0;
}
