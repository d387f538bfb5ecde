/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Preloaded to ucx_perftest. What that sends it has never written, so that the
 * kernel copies the one page of zeros again and again, out of the nearest cache.
 * This writes it first, as programs that have something to send do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>

enum { PAGE = 4096, LARGE = 64 << 10 };

/* Leaves the bytes as they are, in pages of their own. */
static void write_pages(volatile char *bytes, size_t len)
{
	for (size_t at = 0; at < len; at += PAGE)
		bytes[at] = bytes[at];
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	static ssize_t (*next)(int, const struct msghdr *, int);
	/* One buffer is sent over and over; its first few messages need not be whole. */
	static int written;

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "sendmsg");
	for (size_t i = 0; i < message->msg_iovlen && written < 64; i++) {
		const struct iovec *part = &message->msg_iov[i];

		if (part->iov_len < LARGE)
			continue;
		write_pages(part->iov_base, part->iov_len);
		written++;
	}
	return next(fd, message, flags);
}
