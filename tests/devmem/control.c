// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The connection by which a client tells its server what to do. */

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "memory.h"

void complain(const char *what, const char *why)
{
	fprintf(stderr, "devverbs: %s: %s\n", what, why);
	exit(1);
}

void put(int fd, const void *from, size_t len)
{
	if (send(fd, from, len, MSG_NOSIGNAL) != (ssize_t)len)
		die("send");
}

bool heard(int fd, void *to, size_t len)
{
	ssize_t n = recv(fd, to, len, MSG_WAITALL);

	if (n < 0 && errno != ECONNRESET)
		die("recv");
	return n == (ssize_t)len;
}

void get(int fd, void *to, size_t len)
{
	if (!heard(fd, to, len))
		complain("recv", "the other side has ended");
}

int control(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = host ? 0 : AI_PASSIVE, .ai_family = AF_INET6 };
	struct addrinfo *found;
	int err, fd, one = 1, listener;

	if (host)
		hints.ai_family = AF_UNSPEC;
	err = getaddrinfo(host, port, &hints, &found);
	if (err)
		complain(host ? host : port, gai_strerror(err));
	fd = socket(found->ai_family, SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	if (host) {
		if (connect(fd, found->ai_addr, found->ai_addrlen))
			die(host);
	} else {
		listener = fd;
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 1))
			die("listen");
		fd = accept(listener, NULL, NULL);
		if (fd < 0)
			die("accept");
		close(listener);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	freeaddrinfo(found);
	return fd;
}
