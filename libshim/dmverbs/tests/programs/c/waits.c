/*
 * waits thread: opens waiter.so, which says "thread".
 * waits error: says "error: " and why a library cannot be opened, after looking at a file for the first time.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	FILE *file;
	char *why;

	if (argc != 2)
		return 2;
	if (!strcmp(argv[1], "thread"))
		return !dlopen("./waiter.so", RTLD_NOW);
	if (dlopen("./nowhere.so", RTLD_NOW))
		return 3;
	file = fopen("/proc/self/stat", "r");
	why = dlerror();
	if (!file || !why || !strstr(why, "nowhere.so"))
		return 4;
	printf("error: %s\n", why);
	return 0;
}
