/* Prints which library a linked program's ibv_get_device_list is from. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

void *ibv_get_device_list(int *count);

int main(void)
{
	char path[PATH_MAX];
	Dl_info info;

	if (!dladdr(dlsym(RTLD_DEFAULT, "ibv_get_device_list"), &info) || !realpath(info.dli_fname, path))
		return 1;
	ibv_get_device_list(NULL);
	puts(path);
	return 0;
}
