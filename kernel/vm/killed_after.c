// SPDX-License-Identifier: GPL-2.0
/* Preloaded: kills its program after call number KILLED_AFTER, from 1, to send(2) or ioctl(2). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void done(void)
{
	static int calls;

	if (++calls == atoi(getenv("KILLED_AFTER")))
		raise(SIGKILL);
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
	typeof(send) *call = dlsym(RTLD_NEXT, "send");
	ssize_t result = call(fd, data, len, flags);

	done();
	return result;
}

int ioctl(int fd, unsigned long request, ...)
{
	typeof(ioctl) *call = dlsym(RTLD_NEXT, "ioctl");
	va_list arguments;
	int result;

	va_start(arguments, request);
	result = call(fd, request, va_arg(arguments, void *));
	va_end(arguments);
	done();
	return result;
}
