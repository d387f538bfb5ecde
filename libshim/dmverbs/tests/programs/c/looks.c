/* looks DEVICE NUMBER: looks at a device's shadow in all the ways of C, and names each that fails. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int failures;

#define CHECK(what) do { if (!(what)) { printf("%s: %s\n", #what, strerror(errno)); failures++; } } while (0)

static int is_uverbs(mode_t mode, unsigned major)
{
	return S_ISCHR(mode) && major == 231;
}

static int reads(FILE *file, const char *expected)
{
	char line[64];
	int same = file && fgets(line, sizeof(line), file) && !strcmp(line, expected);

	if (file)
		fclose(file);
	return same;
}

static void sysfs(const char *device)
{
	char folder[PATH_MAX], file[PATH_MAX], odd[PATH_MAX], path[PATH_MAX];
	struct dirent **list;
	struct stat st;
	char *found;
	int fd, inner;

	snprintf(folder, sizeof(folder), "/sys/class/infiniband/%s", device);
	snprintf(file, sizeof(file), "%.100s/node_type", folder);
	snprintf(odd, sizeof(odd), "//sys/class/net/../infiniband/./%s//node_type", device);

	CHECK(reads(fopen(file, "r"), "1: CA\n"));
	CHECK(reads(fopen64(odd, "re"), "1: CA\n"));
	CHECK((fd = open(file, O_RDONLY | O_CLOEXEC)) >= 0 && !close(fd));
	CHECK((fd = openat(AT_FDCWD, file, O_RDONLY)) >= 0 && !close(fd));
	CHECK(!chdir("/sys/class"));
	CHECK((fd = open("infiniband", O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK(!fstatat(fd, device, &st, 0) && S_ISDIR(st.st_mode));
	CHECK((inner = openat(fd, device, O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK(!faccessat(inner, "node_type", R_OK, 0));
	CHECK((fd = open("/sys/class", O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK(!fstatat(fd, "infiniband", &st, 0) && S_ISDIR(st.st_mode));
	CHECK(!stat(file, &st) && S_ISREG(st.st_mode));
	CHECK(!lstat(folder, &st) && S_ISDIR(st.st_mode));
	CHECK(!access(file, R_OK) && !eaccess(file, R_OK));
	CHECK(scandir("/sys/class/infiniband", &list, NULL, alphasort) > 2);
	CHECK(realpath(odd, path) && !strcmp(path, file));
	CHECK((found = realpath(folder, NULL)) && !strcmp(found, folder));
	CHECK((found = canonicalize_file_name(folder)) && !strcmp(found, folder));
	CHECK(readlink(file, path, sizeof(path)) < 0 && errno == EINVAL);
	CHECK(open(file, O_WRONLY) < 0 && errno == EACCES);
	CHECK(!fopen(file, "a") && errno == EACCES);
	CHECK(open("/sys/class/infiniband/new", O_RDWR | O_CREAT, 0600) < 0 && errno == EACCES);
	CHECK(stat("/sys/class/infiniband/none", &st) < 0 && errno == ENOENT);
	CHECK(!realpath("/sys/class/infiniband/none", NULL) && errno == ENOENT);
}

static void device_node(const char *number)
{
	char file[PATH_MAX], path[PATH_MAX];
	struct statx stx;
	struct stat st;
	int fd;

	snprintf(file, sizeof(file), "/dev/infiniband/uverbs%s", number);
	CHECK(!stat(file, &st) && is_uverbs(st.st_mode, major(st.st_rdev)));
	CHECK(!lstat(file, &st) && is_uverbs(st.st_mode, major(st.st_rdev)));
	CHECK(!fstatat(AT_FDCWD, file, &st, AT_SYMLINK_NOFOLLOW) && is_uverbs(st.st_mode, major(st.st_rdev)));
	CHECK(!statx(AT_FDCWD, file, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &stx)
	      && is_uverbs(stx.stx_mode, stx.stx_rdev_major));
	CHECK(!access(file, R_OK | W_OK));
	CHECK((fd = open(file, O_RDWR | O_CLOEXEC)) >= 0 && !close(fd));
	CHECK(realpath(file, path) && !strcmp(path, file));
	CHECK(readlink(file, path, sizeof(path)) < 0 && errno == EINVAL);
	CHECK(access("/dev/infiniband/rdma_cm", F_OK) < 0 && errno == ENOENT);
	CHECK(open("/dev/infiniband/rdma_cm", O_RDWR) < 0 && errno == ENOENT);
	CHECK(!fopen("/dev/infiniband/rdma_cm", "r+") && errno == ENOENT);
	CHECK(open("/dev/infiniband/new", O_RDWR | O_CREAT, 0600) < 0);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	sysfs(argv[1]);
	device_node(argv[2]);
	return failures != 0;
}
