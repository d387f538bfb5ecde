/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SEND with invalidate: the receiver learns which of its keys the sender has made invalid, and nobody can use it
 * any more. The key is a memory window's where the device has windows, else a region's.
 */
#include "rig.h"

static struct end a, b;

/* A window on the first page of b's memory; NULL if there are no windows. */
static struct ibv_mw *window(struct ibv_mr *mr)
{
	struct ibv_mw *mw = ibv_alloc_mw(b.pd, IBV_MW_TYPE_2);
	struct ibv_send_wr *bad, bind = { .wr_id = 1, .opcode = IBV_WR_BIND_MW, .send_flags = IBV_SEND_SIGNALED };

	if (!mw)
		return NULL;
	bind.bind_mw.mw = mw;
	bind.bind_mw.rkey = ibv_inc_rkey(mw->rkey);
	bind.bind_mw.bind_info = (struct ibv_mw_bind_info){
		.mr = mr, .addr = b.self.addr, .length = 4096, .mw_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	need(ibv_post_send(b.qp, &bind, &bad) == 0);
	expect(b.send_cq, 1);
	mw->rkey = bind.bind_mw.rkey;
	return mw;
}

/* Its owner makes a key invalid. */
static void locally(void)
{
	struct end c, d;
	struct ibv_mr *mr;

	pair_make(&c, &d, &usual);
	mr = ibv_reg_mr(d.pd, d.buf, 4096, usual.access);
	need(mr);
	ask(&c, (struct ask){ .id = 6, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = mr->rkey });
	show_next("write by a region's key", c.send_cq);
	ask(&d, (struct ask){ .id = 7, .op = IBV_WR_LOCAL_INV, .imm = mr->rkey });
	show_next("local invalidation", d.send_cq);
	ask(&c, (struct ask){ .id = 8, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = mr->rkey });
	show_next("write by that key", c.send_cq);
	outcome("deregister", ibv_dereg_mr(mr));
	pair_drop(&c, &d);
}

/* What is invalid already cannot be made so. */
static void twice(void)
{
	struct end c, d;
	struct ibv_mr *mr;

	pair_make(&c, &d, &usual);
	mr = ibv_reg_mr(d.pd, d.buf, 4096, usual.access);
	need(mr);
	ask(&d, (struct ask){ .id = 9, .op = IBV_WR_LOCAL_INV, .imm = mr->rkey });
	show_next("local invalidation", d.send_cq);
	ask(&d, (struct ask){ .id = 10, .op = IBV_WR_LOCAL_INV, .imm = mr->rkey });
	show_next("  once more", d.send_cq);
	outcome("deregister", ibv_dereg_mr(mr));
	pair_drop(&c, &d);
}

int main(int argc, char **argv)
{
	struct ibv_mw *mw;
	struct ibv_mr *mr;
	struct ibv_wc wc;
	uint32_t key;

	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(b.pd, b.buf, 4096, usual.access | IBV_ACCESS_MW_BIND);
	if (!mr)
		mr = ibv_reg_mr(b.pd, b.buf, 4096, usual.access);
	need(mr);
	mw = window(mr);
	key = mw ? mw->rkey : mr->rkey;

	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = key });
	show_next("write by the key", a.send_cq);
	fill(a.buf, 64, 1);
	post_recv(&b, 11, 8192, 64);
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_SEND_WITH_INV, .len = 64, .imm = key });
	show_next("send that invalidates it", a.send_cq);
	wc = poll_one(b.recv_cq);
	show("  received", &wc);
	yes("  it names the key", wc.invalidated_rkey == key);
	yes("  the data is there", filled(b.buf + 8192, 64, 1));
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	show_next("write by another key", a.send_cq);
	ask(&a, (struct ask){ .id = 5, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = key });
	show_next("write by the key", a.send_cq);
	if (mw)
		need(ibv_dealloc_mw(mw) == 0);
	outcome("deregister", ibv_dereg_mr(mr));
	pair_drop(&a, &b);
	locally();
	twice();
	rig_close();
	return 0;
}
