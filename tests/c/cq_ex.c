/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The extended way to poll, by ibv_start_poll() and so on, and what can be read; see ibv_create_cq_ex(3). */
#include "rig.h"

#include <arpa/inet.h>

#define WANTED (IBV_WC_EX_WITH_BYTE_LEN | IBV_WC_EX_WITH_IMM | IBV_WC_EX_WITH_QP_NUM | IBV_WC_EX_WITH_SRC_QP)

static struct end a, b;
static struct ibv_cq_ex *cq;

/* Starts as soon as there is something. */
static void start(void)
{
	struct ibv_poll_cq_attr attr = { .comp_mask = 0 };
	uint64_t end = now_ms() + 20000;
	int error;

	do
		error = ibv_start_poll(cq, &attr);
	while (error == ENOENT && now_ms() < end);
	need(error == 0);
}

static void send_some(uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++) {
		post_recv(&b, i, 0, 100);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_SEND_WITH_IMM, .len = 10 + i, .imm = 1000 + i });
	}
	/* The peer's completion follows the receiver's: all of those are there. */
	for (uint64_t i = from; i < to; i++)
		expect(a.send_cq, i);
}

static bool is(uint64_t i)
{
	return cq->wr_id == i && cq->status == IBV_WC_SUCCESS && ibv_wc_read_opcode(cq) == IBV_WC_RECV &&
		ibv_wc_read_byte_len(cq) == 10 + i && ntohl(ibv_wc_read_imm_data(cq)) == 1000 + i &&
		ibv_wc_read_qp_num(cq) == b.qp->qp_num && (ibv_wc_read_wc_flags(cq) & IBV_WC_WITH_IMM);
}

static void polling(void)
{
	struct ibv_poll_cq_attr attr = { .comp_mask = 0 };
	struct ibv_wc wc;
	bool right = true;

	outcome("start on an empty queue", ibv_start_poll(cq, &attr));
	attr.comp_mask = 1;
	outcome("start with an unknown request", ibv_start_poll(cq, &attr));
	attr.comp_mask = 0;

	send_some(0, 5);
	start();
	right = is(0);
	for (uint64_t i = 1; i < 5; i++) {
		right = right && ibv_next_poll(cq) == 0;
		right = right && is(i);
	}
	yes("five are there, with all their values", right);
	outcome("then there is no more", ibv_next_poll(cq));
	ibv_end_poll(cq);

	send_some(5, 8);
	start();
	right = is(5);
	ibv_end_poll(cq);
	start();
	right = right && is(6);
	ibv_end_poll(cq);
	yes("what was not polled is there the next time", right);
	wc = poll_one(ibv_cq_ex_to_cq(cq));
	yes("the plain way to poll gives the rest", wc.wr_id == 7 && wc.byte_len == 17);
	outcome("start on an empty queue", ibv_start_poll(cq, &attr));
}

static void failed(void)
{
	bool right;

	post_recv(&b, 30, 0, 8);
	post_recv(&b, 31, 0, 8);
	need(end_to(&b, IBV_QPS_ERR) == 0);
	start();
	right = cq->wr_id == 30 && cq->status == IBV_WC_WR_FLUSH_ERR && ibv_wc_read_qp_num(cq) == b.qp->qp_num;
	right = right && ibv_next_poll(cq) == 0 && cq->wr_id == 31 && cq->status == IBV_WC_WR_FLUSH_ERR;
	ibv_end_poll(cq);
	yes("flushed ones are there, too", right);
}

static void refused(void)
{
	struct ibv_cq_init_attr_ex attr = { .cqe = 10, .wc_flags = 1ull << 63 };
	struct ibv_cq_ex *none;

	errno = 0;
	none = ibv_create_cq_ex(device, &attr);
	yes("unknown values to read are refused", !none && (errno == EOPNOTSUPP || errno == EINVAL));
	attr.wc_flags = 0;
	attr.comp_mask = 1u << 31;
	errno = 0;
	none = ibv_create_cq_ex(device, &attr);
	yes("unknown attributes are refused", !none && (errno == EOPNOTSUPP || errno == EINVAL));
}

int main(int argc, char **argv)
{
	struct ibv_cq_init_attr_ex attr = { .cqe = 100, .wc_flags = WANTED };
	struct setup setup = usual;
	int context;

	rig_open(argc, argv);
	attr.cq_context = &context;
	errno = 0;
	cq = ibv_create_cq_ex(device, &attr);
	if (!cq && lenient(errno, EOPNOTSUPP, 0) == 0)
		skip("the device has no extended completion queues");
	need(cq);
	yes("the queue holds what was asked for and knows its context", cq->cqe >= 100 && cq->cq_context == &context);
	a = end_make(&usual);
	setup.recv_cq = ibv_cq_ex_to_cq(cq);
	b = end_make(&setup);
	end_connect(&a, &b.self);
	end_connect(&b, &a.self);
	polling();
	failed();
	pair_drop(&a, &b);
	outcome("destroy it", ibv_destroy_cq(ibv_cq_ex_to_cq(cq)));
	refused();
	rig_close();
	return 0;
}
