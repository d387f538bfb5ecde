/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory regions: what may be registered, and what a region allows afterwards. */
#include "rig.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (16 << 10)
#define REMOTE (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

static void give(const char *what, struct ibv_pd *pd, void *addr, size_t len, int access)
{
	struct ibv_mr *mr;

	errno = 0;
	mr = ibv_reg_mr(pd, addr, len, access);
	outcome(what, errno_if(!mr));
	if (mr)
		need(ibv_dereg_mr(mr) == 0);
}

static void registering(struct ibv_pd *pd)
{
	uint8_t *buf = pages(SIZE);
	uint8_t *constant = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *gone = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *half = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ibv_mr *one, *two;

	need(constant != MAP_FAILED && gone != MAP_FAILED && half != MAP_FAILED);
	need(munmap(gone, SIZE) == 0 && munmap(half + SIZE / 2, SIZE / 2) == 0);

	one = ibv_reg_mr(pd, buf + 3, 100, REMOTE);
	two = ibv_reg_mr(pd, buf + 3, 100, REMOTE);
	need(one && two);
	yes("a region remembers its address, length, domain and device",
	    one->addr == buf + 3 && one->length == 100 && one->pd == pd && one->context == device);
	yes("two regions of the same memory have keys of their own",
	    one->lkey != two->lkey && one->rkey != two->rkey);
	outcome("deregister", ibv_dereg_mr(one));
	outcome("deregister the other", ibv_dereg_mr(two));

	give("no rights at all", pd, buf, SIZE, 0);
	give("remote read only", pd, buf, SIZE, IBV_ACCESS_REMOTE_READ);
	give("remote write without local write", pd, buf, SIZE, IBV_ACCESS_REMOTE_WRITE);
	give("remote atomic without local write", pd, buf, SIZE, IBV_ACCESS_REMOTE_ATOMIC);
	give("relaxed ordering, which is a hint", pd, buf, SIZE, REMOTE | IBV_ACCESS_RELAXED_ORDERING);
	give("constant memory to read", pd, constant, SIZE, IBV_ACCESS_REMOTE_READ);
	give("constant memory to write", pd, constant, SIZE, REMOTE);
	give("memory that is not there", pd, gone, SIZE, REMOTE);
	give("memory of which half is there", pd, half, SIZE, REMOTE);
	yes("past the end of all addresses is refused",
	    ibv_reg_mr(pd, (void *)(UINTPTR_MAX - 4095), SIZE, REMOTE) == NULL);
	munmap(constant, SIZE);
	munmap(half, SIZE / 2);
}

static void dmabuf(struct ibv_pd *pd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	errno = 0;
	outcome("a dma-buf from descriptor -1",
		lenient(errno_if(!ibv_reg_dmabuf_mr(pd, 0, 4096, 0, -1, REMOTE)), EOPNOTSUPP, EBADF));
	errno = 0;
	outcome("a dma-buf from a descriptor of something else",
		lenient(errno_if(!ibv_reg_dmabuf_mr(pd, 0, 4096, 0, null, REMOTE)), EOPNOTSUPP, EINVAL));
	close(null);
}

/* The first page of `b`'s memory under another address, for the peer and for its owner alike. */
static void iova(struct end *a, struct end *b, const char *what, uint64_t iova)
{
	struct ibv_mr *mr = ibv_reg_mr_iova(b->pd, b->buf, 4096, iova, REMOTE);
	struct ibv_sge local;

	outcome(what, errno_if(!mr));
	if (!mr)
		return;
	fill(a->buf, 64, 1);
	ask(a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 64, .remote_addr = iova + 100, .rkey = mr->rkey });
	show_next("  write to it", a->send_cq);
	yes("  it is at that offset", filled(b->buf + 100, 64, 1));

	local = (struct ibv_sge){ .addr = iova + 100, .length = 64, .lkey = mr->lkey };
	ask(b, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .to = 1000, .sges = &local, .num_sge = 1 });
	show_next("  write from it", b->send_cq);
	yes("  it is there", filled(a->buf + 1000, 64, 1));
	need(ibv_dereg_mr(mr) == 0);
}

static void gone(void)
{
	struct end a, b;
	struct ibv_mr *mr;
	uint32_t rkey;

	pair_make(&a, &b, &usual);
	mr = ibv_reg_mr(b.pd, b.buf, 4096, REMOTE);
	need(mr);
	rkey = mr->rkey;
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = rkey });
	show_next("write while it is registered", a.send_cq);
	need(ibv_dereg_mr(mr) == 0);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = rkey });
	show_next("write after it was deregistered", a.send_cq);
	pair_drop(&a, &b);
}

static void implicit(void)
{
	struct ibv_device_attr_ex attr;
	struct end a, b;
	struct ibv_mr *mr;
	uint64_t caps = IBV_ODP_SUPPORT | IBV_ODP_SUPPORT_IMPLICIT;
	bool offered;

	need(ibv_query_device_ex(device, NULL, &attr) == 0);
	offered = (attr.odp_caps.general_caps & caps) == caps;
	pair_make(&a, &b, &usual);
	errno = 0;
	mr = ibv_reg_mr(b.pd, NULL, SIZE_MAX, REMOTE | IBV_ACCESS_ON_DEMAND);
	yes("all memory on demand, if and only if the device says so", offered == (mr != NULL));
	if (mr) {
		uint8_t *late = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		need(late != MAP_FAILED);
		fill(a.buf, SIZE, 4);
		ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = SIZE, .rkey = mr->rkey,
				      .remote_addr = (uintptr_t)late });
		need(expect(a.send_cq, 1).status == IBV_WC_SUCCESS);
		yes("memory mapped later is written", filled(late, SIZE, 4));
		need(munmap(late, SIZE) == 0);
		ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_WRITE, .len = 8, .rkey = mr->rkey,
				      .remote_addr = (uintptr_t)late });
		yes("memory unmapped since is refused", poll_one(a.send_cq).status != IBV_WC_SUCCESS);
		need(ibv_dereg_mr(mr) == 0);
	} else {
		/* dmverbs has it; others need not. */
		need(getenv("VERBS_TEST_LENIENT"));
		say("memory mapped later is written: yes");
		say("memory unmapped since is refused: yes");
	}
	pair_drop(&a, &b);
}

int main(int argc, char **argv)
{
	struct end a, b;

	rig_open(argc, argv);
	pair_make(&a, &b, &usual);
	registering(a.pd);
	dmabuf(a.pd);
	iova(&a, &b, "at an address of its own", 0x123456789000);
	iova(&a, &b, "at address 0", 0);
	pair_drop(&a, &b);
	gone();
	implicit();
	rig_close();
	return 0;
}
