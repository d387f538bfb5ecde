// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A bad peer: what dmverbs sends on a lane, changed on its way into the kernel. To be preloaded before dmverbs.
 *
 * With HOSTILE=probe in the environment, what the first lane begins with is not what was asked for (WIRE 8.2). SIGUSR1
 * has as much sent there as the kernel takes, with no frame to announce it; with HOSTILE=some, 32 KiB of that, behind
 * which what is announced follows at five a second.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

enum { PROBE = 4096 };

static long (*kernel)(long number, ...);
static long lane = -1;
static bool some;
static volatile bool slow;

static bool is(const char *wanted)
{
	const char *how = getenv("HOSTILE");

	return how && !strcmp(how, wanted);
}

static void flood(int number)
{
	static const char junk[64 << 10];

	(void)number;
	if (some)
		slow = send(lane, junk, sizeof(junk) / 2, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
	else
		while (send(lane, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			;
}

static __attribute__((constructor)) void begin(void)
{
	void *found = dlsym(RTLD_NEXT, "syscall");

	memcpy(&kernel, &found, sizeof(kernel));
	some = is("some");
	signal(SIGUSR1, flood);
}

/* dmverbs sends by number. */
long syscall(long number, ...)
{
	char other[PROBE];
	long of[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		of[i] = va_arg(list, long);
	va_end(list);
	/* Nothing else is as long when the first lane is opened. */
	if (number == SYS_sendto && of[2] == PROBE && lane < 0) {
		lane = (int)of[0];
		memcpy(other, (const char *)of[1], PROBE);
		other[PROBE / 2] ^= is("probe");
		of[1] = (long)other;
	}
	if (slow && of[0] == lane)
		nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
	return kernel(number, of[0], of[1], of[2], of[3], of[4], of[5]);
}
