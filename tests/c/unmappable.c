/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A dma-buf that the CPU cannot map, of the soft accelerator, where the kernel has one. */
#include "rig.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../../include/uapi/softaccel.h"

int main(int argc, char **argv)
{
	struct softaccel_alloc memory = { .size = 65536 };
	int accelerator = open("/dev/softaccel0", O_RDWR);
	struct softaccel_info before, after;
	struct ibv_mr *mr;
	struct end a;

	if (accelerator < 0)
		skip("/dev/softaccel0 cannot be opened (the module softaccel)");
	rig_open(argc, argv);
	a = end_make(&usual);
	need(ioctl(accelerator, SOFTACCEL_INFO, &before) == 0);
	need(ioctl(accelerator, SOFTACCEL_ALLOC, &memory) == 0);
	mr = ibv_reg_dmabuf_mr(a.pd, 0, memory.size, 0, memory.fd, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	outcome("registered", errno_if(!mr));
	close(memory.fd);
	need(ioctl(accelerator, SOFTACCEL_INFO, &after) == 0);
	yes("its memory is given back", after.free == before.free);
	end_drop(&a);
	rig_close();
	close(accelerator);
	return 0;
}
