/*
 * A library that opens another, as a plugin would.
 * show(name, how): prints which library dlopen(name) gives, found by a symbol's version.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int show(const char *name, const char *how)
{
	int flags = RTLD_NOW | (strcmp(how, "deep") ? 0 : RTLD_DEEPBIND);
	void *library = strcmp(how, "namespace") ? dlopen(name, flags) : dlmopen(LM_ID_NEWLM, name, flags);
	char path[PATH_MAX];
	void *symbol;
	Dl_info info;

	if (!library) {
		printf("%s\n", dlerror());
		return 1;
	}
	symbol = dlvsym(library, "ibv_get_device_list", "IBVERBS_1.1");
	if (!symbol || !dladdr(symbol, &info) || !realpath(info.dli_fname, path)) {
		printf("no ibv_get_device_list@IBVERBS_1.1 in %s\n", name);
		return 1;
	}
	puts(path);
	return 0;
}
