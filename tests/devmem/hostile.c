// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A bad peer: what dmverbs sends on a lane, changed on its way into the kernel. To be preloaded before dmverbs.
 *
 * With HOSTILE=probe in the environment, what the first lane begins with is not what was asked for (WIRE 8.2). SIGUSR1
 * has as much sent there as the kernel takes, with no frame to announce it.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { PROBE = 4096 };

static ssize_t (*kernel)(int fd, const void *bytes, size_t len, int flags);
static int lane = -1;

static void flood(int number)
{
	static const char junk[64 << 10];

	(void)number;
	while (kernel(lane, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
}

static __attribute__((constructor)) void begin(void)
{
	void *found = dlsym(RTLD_NEXT, "send");

	memcpy(&kernel, &found, sizeof(kernel));
	signal(SIGUSR1, flood);
}

ssize_t send(int fd, const void *bytes, size_t len, int flags)
{
	const char *how = getenv("HOSTILE");
	char other[PROBE];

	/* Nothing else is as long when the first lane is opened. */
	if (len != PROBE || lane >= 0)
		return kernel(fd, bytes, len, flags);
	lane = fd;
	memcpy(other, bytes, PROBE);
	other[PROBE / 2] ^= how && !strcmp(how, "probe");
	return kernel(fd, other, len, flags);
}
