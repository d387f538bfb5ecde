/* opens HOW NAME: see opener.c; "plugin" opens it from a library that was itself opened with RTLD_DEEPBIND. */
#define _GNU_SOURCE
#include "opener.c"

int main(int argc, char **argv)
{
	int (*there)(const char *, const char *);
	void *plugin;

	if (argc != 3)
		return 2;
	if (strcmp(argv[1], "plugin"))
		return show(argv[2], argv[1]);
	plugin = dlopen("./opener.so", RTLD_NOW | RTLD_DEEPBIND);
	there = plugin ? dlsym(plugin, "show") : NULL;
	return there ? there(argv[2], "plainly") : 3;
}
