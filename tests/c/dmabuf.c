/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory that is registered as a dma-buf: pages of a memfd, lent by /dev/udmabuf. */
#define _GNU_SOURCE
#include "rig.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE 65536

/* Where the dma-buf begins in the addresses of its region. */
#define IOVA 0x1000000u

static const unsigned int everything = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
				       IBV_ACCESS_REMOTE_ATOMIC;

/* A dma-buf, and the same bytes by another mapping. */
static int lend(uint8_t **bytes)
{
	struct udmabuf_create create = { .size = SIZE };
	int memfd = syscall(SYS_memfd_create, "lent", MFD_ALLOW_SEALING), lender, fd;

	need(memfd >= 0);
	need(ftruncate(memfd, SIZE) == 0);
	need(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	lender = open("/dev/udmabuf", O_RDWR);
	if (lender < 0)
		skip("/dev/udmabuf cannot be opened (the module udmabuf, and root)");
	create.memfd = memfd;
	fd = ioctl(lender, UDMABUF_CREATE, &create);
	need(fd >= 0);
	*bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	need(*bytes != MAP_FAILED);
	close(lender);
	close(memfd);
	return fd;
}

static void refused(const char *what, struct ibv_pd *pd, uint64_t offset, size_t len, int fd)
{
	struct ibv_mr *mr = ibv_reg_dmabuf_mr(pd, offset, len, IOVA, fd, everything);

	outcome(what, errno_if(!mr));
	if (mr)
		ibv_dereg_mr(mr);
}

int main(int argc, char **argv)
{
	struct setup setup = usual;
	struct ibv_sge both[2];
	struct end a, b;
	struct ibv_mr *mr, *part;
	uint64_t word;
	uint8_t *bytes;
	int fd = lend(&bytes);
	int file = open("/proc/self/exe", O_RDONLY);

	rig_open(argc, argv);
	setup.access = everything;
	pair_make(&a, &b, &setup);

	refused("no file", b.pd, 0, SIZE, -1);
	refused("a file that is no dma-buf", b.pd, 0, SIZE, file);
	refused("beyond its end", b.pd, 4096, SIZE, fd);

	mr = ibv_reg_dmabuf_mr(b.pd, 0, SIZE, IOVA, fd, everything);
	outcome("all of it", errno_if(!mr));
	need(mr);
	/* The region keeps the dma-buf. */
	close(fd);
	fill(a.buf, 30000, 1);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 30000, .remote_addr = IOVA + 1001, .rkey = mr->rkey });
	show_next("written", a.send_cq);
	yes("  the data is right", filled(bytes + 1001, 30000, 1) && bytes[1000] == 0 && bytes[31001] == 0);

	fill(bytes + 40000, 20000, 2);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ, .at = 32768, .len = 20000, .remote_addr = IOVA + 40000,
			      .rkey = mr->rkey });
	show_next("read", a.send_cq);
	yes("  the data is right", filled(a.buf + 32768, 20000, 2));

	memcpy(bytes + 64, &(uint64_t){ 41 }, 8);
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .len = 8, .remote_addr = IOVA + 64,
			      .rkey = mr->rkey, .compare_add = 1 });
	show_next("added to", a.send_cq);
	memcpy(&word, bytes + 64, sizeof(word));
	yes("  the sum is right", word == 42);

	/* From a dma-buf and other memory to both. */
	fill(bytes, 9000, 3);
	fill(b.buf, 3000, 4);
	post_recv(&a, 10, 0, 12000);
	both[0] = (struct ibv_sge){ .addr = IOVA, .length = 9000, .lkey = mr->lkey };
	both[1] = sge(&b, 0, 3000);
	ask(&b, (struct ask){ .id = 4, .op = IBV_WR_SEND, .sges = both, .num_sge = 2 });
	show_next("sent from it", b.send_cq);
	show_next("received", a.recv_cq);
	yes("  the data is right", filled(a.buf, 9000, 3) && filled(a.buf + 9000, 3000, 4));
	fill(a.buf, 12000, 5);
	both[0].addr = IOVA + 20000;
	post_recv_sges(&b, 11, both, 2);
	ask(&a, (struct ask){ .id = 5, .op = IBV_WR_SEND, .len = 12000 });
	show_next("sent", a.send_cq);
	show_next("received into it", b.recv_cq);
	memcpy(a.buf + 20000, bytes + 20000, 9000);
	memcpy(a.buf + 29000, b.buf, 3000);
	yes("  the data is right", filled(a.buf + 20000, 12000, 5));
	outcome("deregistered", ibv_dereg_mr(mr));

	fd = lend(&bytes);
	part = ibv_reg_dmabuf_mr(b.pd, 5000, 3000, IOVA, fd, everything);
	outcome("a part that begins anywhere", errno_if(!part));
	need(part);
	fill(a.buf, 3000, 6);
	ask(&a, (struct ask){ .id = 6, .op = IBV_WR_RDMA_WRITE, .len = 3000, .remote_addr = IOVA, .rkey = part->rkey });
	show_next("written", a.send_cq);
	yes("  the data is right", filled(bytes + 5000, 3000, 6) && bytes[4999] == 0 && bytes[8000] == 0);
	ask(&a, (struct ask){ .id = 7, .op = IBV_WR_RDMA_WRITE, .len = 3001, .remote_addr = IOVA, .rkey = part->rkey });
	show_next("a byte too many", a.send_cq);
	yes("  nothing is written", bytes[8000] == 0);
	outcome("deregistered", ibv_dereg_mr(part));
	close(fd);
	close(file);
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
