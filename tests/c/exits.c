/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a program does when it exits is done as before, also if there is something to be logged. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ibv_pd *pd;
static uint8_t *buf;
/* What goes to standard error. */
static FILE *log;

static bool logged(int times)
{
	char line[1000];

	rewind(log);
	while (fgets(line, sizeof(line), log))
		times -= strstr(line, "DEBUG") && strstr(line, ": ibv_reg_mr: ") && strchr(line, '\n');
	return times == 0 || getenv("VERBS_TEST_LENIENT");
}

static void refused(const char *what)
{
	errno = 0;
	outcome(what, errno_if(!ibv_reg_mr(pd, buf, 4096, IBV_ACCESS_REMOTE_WRITE)));
}

static void at_exit(void)
{
	refused("remote write without local write, at exit");
	yes("both are logged", logged(2));
	outcome("the domain is destroyed at exit", ibv_dealloc_pd(pd));
	rig_close();
}

int main(int argc, char **argv)
{
	/* dmverbs logs what is refused. */
	need(setenv("DMVERBS_LOG", "debug", 1) == 0);
	log = tmpfile();
	need(log && dup2(fileno(log), STDERR_FILENO) == STDERR_FILENO);
	rig_open(argc, argv);
	pd = ibv_alloc_pd(device);
	need(pd && atexit(at_exit) == 0);
	buf = pages(4096);
	refused("remote write without local write");
	return 0;
}
