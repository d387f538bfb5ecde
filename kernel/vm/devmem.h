/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of devmem share. It comes before the headers of libc. */

#ifndef DEVMEM_H
#define DEVMEM_H

#define __iovec_defined	1	/* by linux/uio.h */

#include <stdbool.h>

#include <linux/uio.h>
#include <softaccel.h>

#define POOL_SIZE	(32UL << 20)	/* what is bound to the queues */
#define STREAM_MAX	(256UL << 20)
#define FRAGS		1024		/* of one recvmsg() */
#define TOKENS		128		/* of one setsockopt(), tcp.c */

/* Memory of one of the three kinds; what a kind lacks is -1 or NULL. */
struct memory {
	unsigned char *va;
	int dmabuf;
	int accel;
};

struct received {
	unsigned long device, linear, host;
	double start, busy_before;	/* of the first bytes */
	unsigned int frags;
	struct softaccel_segment segments[FRAGS];	/* in device memory */
	unsigned int tokens;
	struct dmabuf_token token[TOKENS];
};

extern const char *ifname;
extern unsigned int first_queue;
extern unsigned long buffer_size;

void die(const char *what);
void complain(const char *what, const char *why);
struct memory host_memory(__kernel_size_t size);
void copy(struct memory *to, struct memory *from,
	  const struct softaccel_segment *segments, unsigned int count);
unsigned long total(const struct received *received);
/* The first bytes are there, if they were not before. */
void begin(struct received *received);
/* Receives once; false at the end of the stream. */
bool receive_msg(int fd, int flags, struct memory *pool, struct memory *target,
		 struct received *received);

/* by_zcrx.c */
void open_zcrx(int dmabuf);
void receive_zcrx(int fd, struct memory *pool, struct memory *target,
		  struct received *received);

#endif
