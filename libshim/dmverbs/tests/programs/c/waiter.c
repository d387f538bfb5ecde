/* A library that waits, while it is opened, for a thread that looks at files. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void *look(void *unused)
{
	struct stat status;
	FILE *file = fopen("/proc/self/stat", "r");
	int fd = open("/proc/self/stat", O_RDONLY);

	if (file && fd >= 0 && !access("/proc", R_OK) && !stat("/proc", &status)) {
		close(fd);
		fclose(file);
		puts("thread");
	}
	return unused;
}

__attribute__((constructor)) static void wait_for_a_thread(void)
{
	pthread_t thread;

	if (!pthread_create(&thread, NULL, look, NULL))
		pthread_join(thread, NULL);
}
