/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The connection by which a client tells its server what to do. A call that fails ends the process. */
#ifndef CONTROL_H
#define CONTROL_H

#include <stdbool.h>
#include <stddef.h>

/* Connects to a host, or, without one, waits for a client. */
int control(const char *host, const char *port);
void put(int fd, const void *from, size_t len);
void get(int fd, void *to, size_t len);
/* Like get(), but false if the other side has ended. */
bool heard(int fd, void *to, size_t len);

/* Says what and why, and ends the process. */
void complain(const char *what, const char *why);

#endif
