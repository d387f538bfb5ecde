/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A dma-buf that the CPU cannot map, of the soft accelerator, where the kernel has one: its engine copies. */
#include "rig.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../../include/uapi/softaccel.h"

int main(int argc, char **argv)
{
	const unsigned int everything = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
					IBV_ACCESS_REMOTE_ATOMIC;
	struct setup setup = usual;
	struct softaccel_alloc memory = { .size = 65536 };
	int accelerator = open("/dev/softaccel0", O_RDWR);
	struct softaccel_info before, after;
	uint64_t word;
	struct ibv_mr *mr;
	struct end a, b;

	if (accelerator < 0)
		skip("/dev/softaccel0 cannot be opened (the module softaccel)");
	rig_open(argc, argv);
	setup.access = everything;
	pair_make(&a, &b, &setup);
	need(ioctl(accelerator, SOFTACCEL_INFO, &before) == 0);
	need(ioctl(accelerator, SOFTACCEL_ALLOC, &memory) == 0);
	mr = ibv_reg_dmabuf_mr(b.pd, 4096, 8192, 0, memory.fd, everything);
	outcome("registered", errno_if(!mr));
	need(mr);
	/* The region keeps the dma-buf. */
	close(memory.fd);
	fill(a.buf, 3000, 1);
	ask(&a, (struct ask){ .id = 1, .op = IBV_WR_RDMA_WRITE, .len = 3000, .remote_addr = 1001, .rkey = mr->rkey });
	show_next("written", a.send_cq);
	ask(&a, (struct ask){ .id = 2, .op = IBV_WR_RDMA_READ, .at = 8192, .len = 3000, .remote_addr = 1001,
			      .rkey = mr->rkey });
	show_next("read", a.send_cq);
	yes("  the data is right", filled(a.buf + 8192, 3000, 1));
	ask(&a, (struct ask){ .id = 3, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .len = 8, .remote_addr = 64, .rkey = mr->rkey,
			      .compare_add = 5 });
	show_next("added to", a.send_cq);
	ask(&a, (struct ask){ .id = 4, .op = IBV_WR_ATOMIC_FETCH_AND_ADD, .len = 8, .remote_addr = 64, .rkey = mr->rkey,
			      .compare_add = 5 });
	show_next("added to", a.send_cq);
	memcpy(&word, a.buf, sizeof(word));
	yes("  the first sum was there", word == 5);
	outcome("deregistered", ibv_dereg_mr(mr));
	need(ioctl(accelerator, SOFTACCEL_INFO, &after) == 0);
	yes("its memory is given back", after.free == before.free);
	pair_drop(&a, &b);
	rig_close();
	close(accelerator);
	return 0;
}
