/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The device, and ends: making them, connecting them, posting to them. */
#include "rig.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALL_ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | \
		    IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC)
#define CAP { .max_send_wr = 64, .max_recv_wr = 64, .max_send_sge = 16, \
	      .max_recv_sge = 16, .max_inline_data = 256 }

const struct setup usual = {
	.access = ALL_ACCESS, .timeout = 18, .retry_cnt = 7, .rnr_retry = 7,
	.min_rnr_timer = 12, .rd_atomic = 4, .cap = CAP, .memory = 64 << 10, .cqe = 256,
};

const struct setup hasty = {
	.access = ALL_ACCESS, .timeout = 14, .retry_cnt = 3, .rnr_retry = 0,
	.min_rnr_timer = 12, .rd_atomic = 4, .cap = CAP, .memory = 64 << 10, .cqe = 256,
};

struct ibv_context *device;
struct ibv_port_attr port;
union ibv_gid gid;
int gid_index;

static bool usable(struct ibv_device *candidate, const char *wanted)
{
	if (wanted && strcmp(ibv_get_device_name(candidate), wanted) != 0)
		return false;
	device = ibv_open_device(candidate);
	if (!device)
		return false;
	if (ibv_query_port(device, 1, &port) == 0 && port.state == IBV_PORT_ACTIVE)
		return true;
	need(ibv_close_device(device) == 0);
	device = NULL;
	return false;
}

void rig_open(int argc, char **argv)
{
	const char *wanted = argc > 1 ? argv[1] : getenv("VERBS_TEST_DEVICE");
	const char *index = getenv("VERBS_TEST_GID");
	struct ibv_device **list = ibv_get_device_list(NULL);

	need(list);
	for (int i = 0; list[i] && !device; i++)
		usable(list[i], wanted);
	ibv_free_device_list(list);
	if (!device) {
		say(wanted ? "the device asked for is not there, or not active" : "no device is active");
		exit(1);
	}
	gid_index = index ? atoi(index) : 0;
	need(ibv_query_gid(device, 1, gid_index, &gid) == 0);
}

void rig_close(void)
{
	need(ibv_close_device(device) == 0);
	device = NULL;
}

static void make_qp(struct end *end)
{
	struct ibv_qp_init_attr_ex attr = {
		.send_cq = end->send_cq, .recv_cq = end->recv_cq, .cap = end->setup.cap,
		.qp_type = IBV_QPT_RC, .sq_sig_all = end->setup.sig_all, .pd = end->pd,
		.comp_mask = IBV_QP_INIT_ATTR_PD,
	};
	struct ibv_qp_init_attr plain = {
		.send_cq = end->send_cq, .recv_cq = end->recv_cq, .cap = end->setup.cap,
		.qp_type = IBV_QPT_RC, .sq_sig_all = end->setup.sig_all,
	};

	if (end->setup.extended) {
		attr.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
		attr.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM |
			IBV_QP_EX_WITH_SEND | IBV_QP_EX_WITH_SEND_WITH_IMM | IBV_QP_EX_WITH_RDMA_READ |
			IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
		end->qp = ibv_create_qp_ex(device, &attr);
		end->setup.cap = attr.cap;
	} else {
		end->qp = ibv_create_qp(end->pd, &plain);
		end->setup.cap = plain.cap;
	}
	need(end->qp);
}

struct end end_make(const struct setup *setup)
{
	struct end end = { .setup = *setup, .send_cq = setup->send_cq, .recv_cq = setup->recv_cq };

	end.pd = ibv_alloc_pd(device);
	need(end.pd);
	if (!end.send_cq)
		end.send_cq = ibv_create_cq(device, setup->cqe, NULL, setup->channel, 0);
	if (!end.recv_cq)
		end.recv_cq = ibv_create_cq(device, setup->cqe, NULL, setup->channel, 0);
	need(end.send_cq && end.recv_cq);
	end.buf = pages(setup->memory);
	end.mr = ibv_reg_mr(end.pd, end.buf, setup->memory, setup->access);
	need(end.mr);
	make_qp(&end);
	end.self = (struct address){
		.qpn = end.qp->qp_num, .psn = (end.qp->qp_num * 7919) & 0xffffff, .rkey = end.mr->rkey,
		.lid = port.lid, .addr = (uintptr_t)end.buf, .gid = gid,
	};
	return end;
}

int end_to_init(struct end *end)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT, .pkey_index = 0, .port_num = 1,
		.qp_access_flags = end->setup.access,
	};

	return ibv_modify_qp(end->qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
			     IBV_QP_ACCESS_FLAGS);
}

int end_to_rtr(struct end *end, const struct address *peer)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR, .path_mtu = port.active_mtu, .dest_qp_num = peer->qpn,
		.rq_psn = peer->psn, .max_dest_rd_atomic = end->setup.rd_atomic,
		.min_rnr_timer = end->setup.min_rnr_timer,
		.ah_attr = { .is_global = 1, .dlid = peer->lid, .port_num = 1,
			     .grh = { .dgid = peer->gid, .sgid_index = gid_index, .hop_limit = 64 } },
	};

	end->peer = *peer;
	return ibv_modify_qp(end->qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
			     IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
			     IBV_QP_MIN_RNR_TIMER);
}

int end_to_rts(struct end *end)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS, .sq_psn = end->self.psn, .timeout = end->setup.timeout,
		.retry_cnt = end->setup.retry_cnt, .rnr_retry = end->setup.rnr_retry,
		.max_rd_atomic = end->setup.rd_atomic,
	};

	return ibv_modify_qp(end->qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT |
			     IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
}

int end_to(struct end *end, enum ibv_qp_state state)
{
	struct ibv_qp_attr attr = { .qp_state = state };

	return ibv_modify_qp(end->qp, &attr, IBV_QP_STATE);
}

enum ibv_qp_state end_state(const struct end *end)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;

	need(ibv_query_qp(end->qp, &attr, IBV_QP_STATE, &init) == 0);
	return attr.qp_state;
}

void end_connect(struct end *end, const struct address *peer)
{
	need(end_to_init(end) == 0);
	need(end_to_rtr(end, peer) == 0);
	need(end_to_rts(end) == 0);
}

void end_drop(struct end *end)
{
	need(ibv_destroy_qp(end->qp) == 0);
	if (!end->setup.send_cq)
		need(ibv_destroy_cq(end->send_cq) == 0);
	if (!end->setup.recv_cq)
		need(ibv_destroy_cq(end->recv_cq) == 0);
	need(ibv_dereg_mr(end->mr) == 0);
	need(ibv_dealloc_pd(end->pd) == 0);
	free(end->buf);
}

void pair_make(struct end *a, struct end *b, const struct setup *setup)
{
	*a = end_make(setup);
	*b = end_make(setup);
	end_connect(a, &b->self);
	end_connect(b, &a->self);
}

void pair_drop(struct end *a, struct end *b)
{
	end_drop(a);
	end_drop(b);
}

struct end end_join(const struct process *other, const struct setup *setup)
{
	struct end end = end_make(setup);
	struct address peer;

	tell(other->fd, &end.self, sizeof(end.self));
	hear(other->fd, &peer, sizeof(peer));
	end_connect(&end, &peer);
	meet(other);
	return end;
}

struct ibv_sge sge(const struct end *end, size_t at, size_t len)
{
	return (struct ibv_sge){ .addr = (uintptr_t)end->buf + at, .length = len, .lkey = end->mr->lkey };
}

int try_ask(struct end *end, struct ask ask)
{
	struct ibv_sge one = sge(end, ask.at, ask.len);
	struct ibv_send_wr wr = { .wr_id = ask.id, .opcode = ask.op }, *bad = NULL;
	uint64_t remote_addr = ask.remote_addr ? ask.remote_addr : end->peer.addr + ask.to;
	uint32_t rkey = ask.rkey ? ask.rkey : end->peer.rkey;
	int error;

	if (ask.lkey)
		one.lkey = ask.lkey;
	wr.sg_list = ask.sges ? ask.sges : &one;
	wr.num_sge = ask.sges ? ask.num_sge : ask.len > 0;
	wr.send_flags = ask.flags | (ask.unsignaled ? 0 : IBV_SEND_SIGNALED);
	if (ask.op == IBV_WR_SEND_WITH_INV || ask.op == IBV_WR_LOCAL_INV)
		wr.invalidate_rkey = ask.imm;
	else
		wr.imm_data = htonl(ask.imm);
	if (ask.op == IBV_WR_ATOMIC_CMP_AND_SWP || ask.op == IBV_WR_ATOMIC_FETCH_AND_ADD) {
		wr.wr.atomic.remote_addr = remote_addr;
		wr.wr.atomic.rkey = rkey;
		wr.wr.atomic.compare_add = ask.compare_add;
		wr.wr.atomic.swap = ask.swap;
	} else {
		wr.wr.rdma.remote_addr = remote_addr;
		wr.wr.rdma.rkey = rkey;
	}
	error = ibv_post_send(end->qp, &wr, &bad);
	need(error == 0 || bad == &wr);
	return error;
}

void ask(struct end *end, struct ask ask)
{
	int error = try_ask(end, ask);

	errno = error;
	need(error == 0);
}

int try_recv(struct end *end, uint64_t id, size_t at, size_t len)
{
	struct ibv_sge one = sge(end, at, len);
	struct ibv_recv_wr wr = { .wr_id = id, .sg_list = &one, .num_sge = len > 0 }, *bad = NULL;
	int error = ibv_post_recv(end->qp, &wr, &bad);

	need(error == 0 || bad == &wr);
	return error;
}

void post_recv(struct end *end, uint64_t id, size_t at, size_t len)
{
	need(try_recv(end, id, at, len) == 0);
}

void post_recv_sges(struct end *end, uint64_t id, struct ibv_sge *sges, int num_sge)
{
	struct ibv_recv_wr wr = { .wr_id = id, .sg_list = sges, .num_sge = num_sge }, *bad;

	need(ibv_post_recv(end->qp, &wr, &bad) == 0);
}
