/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asking for too much: when objects are made, when queues are full, when lists are too long. */
#include "rig.h"

#include <stdlib.h>

#define MANY 4096

static int create(struct ibv_pd *pd, struct ibv_cq *cq, struct ibv_qp_cap cap, enum ibv_qp_type type)
{
	struct ibv_qp_init_attr init = { .send_cq = cq, .recv_cq = cq, .cap = cap, .qp_type = type };
	struct ibv_qp *qp;

	errno = 0;
	qp = ibv_create_qp(pd, &init);
	if (!qp)
		return errno;
	need(init.cap.max_send_wr >= cap.max_send_wr && init.cap.max_recv_wr >= cap.max_recv_wr &&
	     init.cap.max_send_sge >= cap.max_send_sge && init.cap.max_recv_sge >= cap.max_recv_sge &&
	     init.cap.max_inline_data >= cap.max_inline_data);
	need(ibv_destroy_qp(qp) == 0);
	return 0;
}

static void making(void)
{
	struct ibv_device_attr attr;
	struct ibv_pd *pd = ibv_alloc_pd(device);
	struct ibv_cq *cq = ibv_create_cq(device, 10, NULL, NULL, 0);

	need(pd && cq && ibv_query_device(device, &attr) == 0);
	yes("a completion queue holds at least what was asked for", cq->cqe >= 10);
	errno = 0;
	outcome("a completion queue of no entries", errno_if(!ibv_create_cq(device, 0, NULL, NULL, 0)));
	errno = 0;
	outcome("a completion queue of more entries than there can be",
		errno_if(!ibv_create_cq(device, attr.max_cqe + 1, NULL, NULL, 0)));
	errno = 0;
	outcome("a completion vector that does not exist",
		errno_if(!ibv_create_cq(device, 10, NULL, NULL, device->num_comp_vectors)));

	outcome("a queue pair of 1 request each", create(pd, cq, (struct ibv_qp_cap){ 1, 1, 1, 1, 0 }, IBV_QPT_RC));
	outcome("a queue pair of the longest lists",
		create(pd, cq, (struct ibv_qp_cap){ 1, 1, attr.max_sge, attr.max_sge, 0 }, IBV_QPT_RC));
	outcome("a longer send queue than there can be",
		create(pd, cq, (struct ibv_qp_cap){ attr.max_qp_wr + 1, 1, 1, 1, 0 }, IBV_QPT_RC));
	outcome("a longer receive queue than there can be",
		create(pd, cq, (struct ibv_qp_cap){ 1, attr.max_qp_wr + 1, 1, 1, 0 }, IBV_QPT_RC));
	outcome("longer lists to send than there can be",
		create(pd, cq, (struct ibv_qp_cap){ 1, 1, attr.max_sge + 1, 1, 0 }, IBV_QPT_RC));
	outcome("longer lists to receive than there can be",
		create(pd, cq, (struct ibv_qp_cap){ 1, 1, 1, attr.max_sge + 1, 0 }, IBV_QPT_RC));
	outcome("more inline data than there can be",
		create(pd, cq, (struct ibv_qp_cap){ 1, 1, 1, 1, 1 << 24 }, IBV_QPT_RC));
	need(ibv_destroy_cq(cq) == 0 && ibv_dealloc_pd(pd) == 0);
}

/* A list of requests, longer than any queue of `usual`. */
static struct ibv_send_wr *sends(const struct end *end, struct ibv_sge *one)
{
	struct ibv_send_wr *list = calloc(MANY, sizeof(*list));

	need(list);
	*one = sge(end, 0, 8);
	for (size_t i = 0; i < MANY; i++)
		list[i] = (struct ibv_send_wr){ .wr_id = i, .next = i + 1 < MANY ? &list[i + 1] : NULL,
						.sg_list = one, .num_sge = 1, .opcode = IBV_WR_SEND };
	return list;
}

static void full_send_queue(void)
{
	struct ibv_send_wr *list, *bad = NULL;
	struct ibv_sge one;
	struct end a, b;
	size_t taken;
	bool right = true;

	pair_make(&a, &b, &usual);
	list = sends(&a, &one);
	/* Nothing is posted at b: none of them ends. */
	outcome("more sends than the queue holds", ibv_post_send(a.qp, list, &bad));
	need(bad);
	taken = bad - list;
	yes("  at least as many as agreed are taken", taken >= a.setup.cap.max_send_wr && taken < MANY);
	bad = NULL;
	outcome("another one", ibv_post_send(a.qp, &list[MANY - 1], &bad));
	yes("  it is the bad one", bad == &list[MANY - 1]);
	need(end_to(&a, IBV_QPS_ERR) == 0);
	for (size_t i = 0; i < taken; i++) {
		struct ibv_wc wc = poll_one(a.send_cq);

		right = right && wc.wr_id == i && wc.status == IBV_WC_WR_FLUSH_ERR;
	}
	yes("those before the bad one were posted", right);
	yes("those from it on were not", quiet(a.send_cq, 20));
	outcome("there is room again", ibv_post_send(a.qp, &list[MANY - 1], &bad));
	free(list);
	pair_drop(&a, &b);
}

static void full_receive_queue(void)
{
	struct ibv_recv_wr *list = calloc(MANY, sizeof(*list)), *bad = NULL;
	struct ibv_sge one;
	struct end a, b;
	size_t taken;
	bool right = true;

	need(list);
	pair_make(&a, &b, &usual);
	one = sge(&a, 0, 8);
	for (size_t i = 0; i < MANY; i++)
		list[i] = (struct ibv_recv_wr){ .wr_id = i, .next = i + 1 < MANY ? &list[i + 1] : NULL,
						.sg_list = &one, .num_sge = 1 };
	outcome("more receives than the queue holds", ibv_post_recv(a.qp, list, &bad));
	need(bad);
	taken = bad - list;
	yes("  at least as many as agreed are taken", taken >= a.setup.cap.max_recv_wr && taken < MANY);
	need(end_to(&a, IBV_QPS_ERR) == 0);
	for (size_t i = 0; i < taken; i++) {
		struct ibv_wc wc = poll_one(a.recv_cq);

		right = right && wc.wr_id == i && wc.status == IBV_WC_WR_FLUSH_ERR;
	}
	yes("those before the bad one were posted", right);
	yes("those from it on were not", quiet(a.recv_cq, 20));
	free(list);
	pair_drop(&a, &b);
}

static void bad_requests(void)
{
	struct ibv_sge *many = calloc(1024, sizeof(*many));
	struct ibv_recv_wr receive = { .wr_id = 1, .sg_list = many, .num_sge = 1024 }, *bad_receive = NULL;
	struct ibv_send_wr *list, *bad = NULL;
	struct ibv_sge one;
	struct end a, b;

	need(many);
	pair_make(&a, &b, &usual);
	for (int i = 0; i < 1024; i++)
		many[i] = sge(&a, 0, 1);
	outcome("more elements to send than agreed",
		try_ask(&a, (struct ask){ .op = IBV_WR_SEND, .sges = many, .num_sge = 1024 }));
	for (int i = 0; i < 1024; i++)
		many[i].length = 0;
	outcome("more elements of inline data than agreed", try_ask(&a, (struct ask){
		.op = IBV_WR_SEND, .flags = IBV_SEND_INLINE, .sges = many, .num_sge = 1024 }));
	outcome("more elements to receive than agreed", ibv_post_recv(a.qp, &receive, &bad_receive));
	yes("  it is the bad one", bad_receive == &receive);
	outcome("an operation that does not exist", try_ask(&a, (struct ask){ .op = 200, .len = 8 }));

	/* The third of five is bad: the first two are posted. */
	for (uint64_t i = 0; i < 5; i++)
		post_recv(&b, i, 0, 8);
	list = sends(&a, &one);
	list[1].send_flags = IBV_SEND_SIGNALED;
	list[2].num_sge = 1024;
	list[2].sg_list = many;
	list[4].next = NULL;
	outcome("a list whose third is bad", ibv_post_send(a.qp, list, &bad));
	yes("  it is the bad one", bad == &list[2]);
	show_next("  the second", a.send_cq);
	expect(b.recv_cq, 0);
	expect(b.recv_cq, 1);
	yes("  the fourth and fifth were not posted", quiet(b.recv_cq, 50));
	free(list);
	free(many);
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	making();
	full_send_queue();
	full_receive_queue();
	bad_requests();
	rig_close();
	return 0;
}
