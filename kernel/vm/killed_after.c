// SPDX-License-Identifier: GPL-2.0
/* Preloaded: kills its program after the call to send(2) or ioctl(2) whose number, from 1, is KILLED_AFTER. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>

static void done(void)
{
	static int calls;

	if (++calls == atoi(getenv("KILLED_AFTER")))
		raise(SIGKILL);
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
	ssize_t (*call)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
	ssize_t result = call(fd, data, len, flags);

	done();
	return result;
}

int ioctl(int fd, unsigned long request, ...)
{
	int (*call)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
	va_list arguments;
	int result;

	va_start(arguments, request);
	result = call(fd, request, va_arg(arguments, void *));
	va_end(arguments);
	done();
	return result;
}
