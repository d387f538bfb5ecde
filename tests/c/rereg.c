/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Re-registering: new rights, a new place, a new protection domain; see ibv_rereg_mr(3). */
#include "rig.h"

#define SIZE 4096
#define REMOTE (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

/* Gives a positive errno as outcome() wants it. */
static int change(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t len, int access)
{
	int result;

	errno = 0;
	result = ibv_rereg_mr(mr, flags, pd, addr, len, access);
	return result == 0 ? 0 : errno ? errno : EINVAL;
}

static void write_to(struct end *a, const char *what, struct ibv_mr *mr, const uint8_t *at)
{
	ask(a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = mr->rkey,
			     .remote_addr = (uintptr_t)at });
	show_next(what, a->send_cq);
}

static void access(void)
{
	struct end a, b;
	struct ibv_mr *mr;
	uint32_t lkey, rkey;

	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(b.pd, b.buf, SIZE, IBV_ACCESS_LOCAL_WRITE);
	need(mr);
	lkey = mr->lkey;
	rkey = mr->rkey;
	outcome("give the right to write", change(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, REMOTE));
	yes("  peers that know it need not be told", mr->lkey == lkey && mr->rkey == rkey);
	write_to(&a, "  write", mr, b.buf);
	/* Without its flag nobody looks at the domain. */
	outcome("take it away",
		change(mr, IBV_REREG_MR_CHANGE_ACCESS, (struct ibv_pd *)&lkey, NULL, 0, IBV_ACCESS_LOCAL_WRITE));
	write_to(&a, "  write", mr, b.buf);
	need(ibv_dereg_mr(mr) == 0);
	pair_drop(&a, &b);
}

static void translation(void)
{
	struct end a, b;
	struct ibv_mr *mr;

	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(b.pd, b.buf, SIZE, REMOTE);
	need(mr);
	fill(a.buf, 8, 1);
	outcome("move to other memory",
		lenient(change(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, b.buf + SIZE, SIZE, 0),
			EOPNOTSUPP, 0));
	yes("  the structure says so", mr->addr == b.buf + SIZE && mr->length == SIZE);
	write_to(&a, "  write to the new place", mr, b.buf + SIZE);
	yes("  it is there", filled(b.buf + SIZE, 8, 1));
	write_to(&a, "  write to the old place", mr, b.buf);
	need(ibv_dereg_mr(mr) == 0);
	pair_drop(&a, &b);
}

static void domain(void)
{
	struct end a, b;
	struct ibv_pd *other = ibv_alloc_pd(device);
	struct ibv_mr *mr;

	need(other);
	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(b.pd, b.buf, SIZE, REMOTE);
	need(mr);
	outcome("move to another protection domain", change(mr, IBV_REREG_MR_CHANGE_PD, other, NULL, 0, 0));
	yes("  the structure says so", mr->pd == other);
	outcome("  the other domain is in use", ibv_dealloc_pd(other));
	write_to(&a, "  write by a queue pair of the old one", mr, b.buf);
	need(ibv_dereg_mr(mr) == 0);
	need(ibv_dealloc_pd(other) == 0);
	pair_drop(&a, &b);
}

static void refused(void)
{
	struct ibv_pd *pd = ibv_alloc_pd(device);
	uint8_t *buf = pages(SIZE);
	struct ibv_mr *mr = ibv_reg_mr(pd, buf, SIZE, REMOTE);

	need(pd && mr);
	yes("unknown flags are refused", ibv_rereg_mr(mr, 1 << 20, NULL, NULL, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	yes("a place without a length is refused",
	    ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, buf, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	yes("rights without the flag are refused",
	    ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, buf, SIZE, REMOTE) == IBV_REREG_MR_ERR_INPUT);
	yes("remote write without local write is refused",
	    ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, IBV_ACCESS_REMOTE_WRITE) != 0);
	outcome("the region can still be deregistered", ibv_dereg_mr(mr));
	need(ibv_dealloc_pd(pd) == 0);
}

int main(int argc, char **argv)
{
	rig_open(argc, argv);
	access();
	translation();
	domain();
	refused();
	rig_close();
	return 0;
}
