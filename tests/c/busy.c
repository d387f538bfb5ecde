/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is still used cannot be destroyed; see ibv_alloc_pd(3), ibv_create_cq(3), ibv_create_comp_channel(3). */
#include "rig.h"

int main(int argc, char **argv)
{
	struct ibv_comp_channel *channel;
	struct ibv_cq *send_cq, *recv_cq;
	struct ibv_qp_init_attr init = { .cap = { 1, 1, 1, 1, 0 }, .qp_type = IBV_QPT_RC };
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	struct ibv_qp *qp;
	uint8_t *buf = pages(4096);

	rig_open(argc, argv);
	pd = ibv_alloc_pd(device);
	channel = ibv_create_comp_channel(device);
	send_cq = ibv_create_cq(device, 1, NULL, NULL, 0);
	recv_cq = ibv_create_cq(device, 1, NULL, channel, 0);
	need(pd && channel && send_cq && recv_cq);
	mr = ibv_reg_mr(pd, buf, 4096, 0);
	init.send_cq = send_cq;
	init.recv_cq = recv_cq;
	qp = ibv_create_qp(pd, &init);
	need(mr && qp);

	outcome("a domain with a region and a queue pair", ibv_dealloc_pd(pd));
	outcome("a completion queue that a queue pair sends by", ibv_destroy_cq(send_cq));
	outcome("a completion queue that a queue pair receives by", ibv_destroy_cq(recv_cq));
	outcome("a channel with a completion queue", ibv_destroy_comp_channel(channel));
	outcome("the region", ibv_dereg_mr(mr));
	outcome("a domain with a queue pair", ibv_dealloc_pd(pd));
	outcome("the queue pair", ibv_destroy_qp(qp));
	mr = ibv_reg_mr(pd, buf, 4096, 0);
	need(mr);
	outcome("a domain with a region", ibv_dealloc_pd(pd));
	need(ibv_dereg_mr(mr) == 0);
	outcome("the domain", ibv_dealloc_pd(pd));
	outcome("the one completion queue", ibv_destroy_cq(send_cq));
	outcome("the other completion queue", ibv_destroy_cq(recv_cq));
	outcome("the channel", ibv_destroy_comp_channel(channel));
	outcome("the device", ibv_close_device(device));
	return 0;
}
