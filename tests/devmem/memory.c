// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "memory.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "softaccel.h"

void die(const char *what)
{
	fprintf(stderr, "devverbs: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_or_die(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die(path);
	return fd;
}

static int udmabuf(size_t size)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC, .size = size };
	int device = open_or_die("/dev/udmabuf"), fd;
	int memfd = memfd_create("devverbs", MFD_ALLOW_SEALING);

	if (memfd < 0 || ftruncate(memfd, size) || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		die("memfd");
	create.memfd = memfd;
	fd = ioctl(device, UDMABUF_CREATE, &create);
	if (fd < 0)
		die("UDMABUF_CREATE");
	close(memfd);
	close(device);
	return fd;
}

static int heap(size_t size)
{
	struct dma_heap_allocation_data data = { .len = size, .fd_flags = O_RDWR | O_CLOEXEC };
	int device = open_or_die("/dev/dma_heap/system");

	if (ioctl(device, DMA_HEAP_IOCTL_ALLOC, &data))
		die("DMA_HEAP_IOCTL_ALLOC");
	close(device);
	return data.fd;
}

/* cuda.h */
static struct {
	int (*init)(unsigned int flags);
	int (*retain)(void **context, int ordinal);
	int (*push)(void *context);
	int (*allocate)(uint64_t *address, size_t len);
	int (*release)(uint64_t address);
	int (*to_gpu)(uint64_t to, const void *from, size_t len);
	int (*to_host)(void *to, uint64_t from, size_t len);
	int (*handle)(void *handle, uint64_t address, size_t size, int type, unsigned long long flags);
} cuda;

#define DMA_BUF_FD 1

static void succeed(const char *call, int outcome)
{
	if (outcome) {
		fprintf(stderr, "devverbs: %s: error %d of CUDA's driver\n", call, outcome);
		exit(1);
	}
}

static void *symbol(void *library, const char *name)
{
	void *found = dlsym(library, name);

	if (!found) {
		fprintf(stderr, "devverbs: %s\n", dlerror());
		exit(1);
	}
	return found;
}

/* By the driver that VERBS_TEST_CUDA names; with a dma-buf if that is asked for. */
static uint64_t gpu(size_t size, int *dmabuf)
{
	const char *name = getenv("VERBS_TEST_CUDA");
	void *library = dlopen(name ? name : "libcuda.so.1", RTLD_NOW), *context;
	uint64_t address;

	if (!library) {
		fprintf(stderr, "devverbs: %s\n", dlerror());
		exit(1);
	}
	*(void **)&cuda.init = symbol(library, "cuInit");
	*(void **)&cuda.retain = symbol(library, "cuDevicePrimaryCtxRetain");
	*(void **)&cuda.push = symbol(library, "cuCtxPushCurrent_v2");
	*(void **)&cuda.allocate = symbol(library, "cuMemAlloc_v2");
	*(void **)&cuda.release = symbol(library, "cuMemFree_v2");
	*(void **)&cuda.to_gpu = symbol(library, "cuMemcpyHtoD_v2");
	*(void **)&cuda.to_host = symbol(library, "cuMemcpyDtoH_v2");
	succeed("cuInit", cuda.init(0));
	succeed("cuDevicePrimaryCtxRetain", cuda.retain(&context, 0));
	succeed("cuCtxPushCurrent", cuda.push(context));
	succeed("cuMemAlloc", cuda.allocate(&address, size));
	if (dmabuf) {
		*(void **)&cuda.handle = symbol(library, "cuMemGetHandleForAddressRange");
		succeed("cuMemGetHandleForAddressRange", cuda.handle(dmabuf, address, size, DMA_BUF_FD, 0));
	}
	return address;
}

void memory_make(struct memory *memory, const char *kind, size_t size)
{
	struct softaccel_alloc alloc = { .size = size };

	*memory = (struct memory){ .size = size, .dmabuf = -1, .accel = -1 };
	if (!strcmp(kind, "softaccel")) {
		memory->accel = open_or_die("/dev/softaccel0");
		if (ioctl(memory->accel, SOFTACCEL_ALLOC, &alloc))
			die("SOFTACCEL_ALLOC");
		memory->dmabuf = alloc.fd;
		return;
	}
	if (!strcmp(kind, "cuda") || !strcmp(kind, "cuda_dmabuf")) {
		memory->gpu = gpu(size, strcmp(kind, "cuda") ? &memory->dmabuf : NULL);
		return;
	}
	if (!strcmp(kind, "udmabuf"))
		memory->dmabuf = udmabuf(size);
	else if (!strcmp(kind, "heap"))
		memory->dmabuf = heap(size);
	else if (strcmp(kind, "host")) {
		fprintf(stderr, "devverbs: %s is not host, udmabuf, heap, softaccel, cuda or cuda_dmabuf\n", kind);
		exit(2);
	}
	memory->va = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  memory->dmabuf < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, memory->dmabuf, 0);
	if (memory->va == MAP_FAILED)
		die("mmap");
}

void memory_free(struct memory *memory)
{
	if (memory->va)
		munmap(memory->va, memory->size);
	if (memory->dmabuf >= 0)
		close(memory->dmabuf);
	if (memory->accel >= 0)
		close(memory->accel);
	if (memory->gpu)
		succeed("cuMemFree", cuda.release(memory->gpu));
}

static void pattern(unsigned char *to, size_t len, uint32_t seed)
{
	uint32_t x = seed * 2654435761u + 2463534242u;
	size_t i;

	for (i = 0; i < len; i += sizeof(x)) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		memcpy(to + i, &x, len - i < sizeof(x) ? len - i : sizeof(x));
	}
}

static unsigned char *scratch(size_t len)
{
	unsigned char *bytes = malloc(len ? len : 1);

	if (!bytes)
		die("malloc");
	return bytes;
}

/* The processor's access to a mapped dma-buf begins or ends. */
static void synchronize(int dmabuf, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	if (dmabuf >= 0 && ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync))
		die("DMA_BUF_IOCTL_SYNC");
}

void memory_store(struct memory *memory, size_t at, const void *from, size_t len)
{
	struct softaccel_segment segment = { .src = (uintptr_t)from, .dst = at, .len = len };
	struct softaccel_copy copy = {
		.segments = (uintptr_t)&segment, .count = 1, .src_fd = SOFTACCEL_HOST, .dst_fd = memory->dmabuf, .event_fd = -1,
	};

	if (memory->accel >= 0) {
		if (ioctl(memory->accel, SOFTACCEL_COPY, &copy))
			die("SOFTACCEL_COPY");
		return;
	}
	if (memory->gpu)
		return succeed("cuMemcpyHtoD", cuda.to_gpu(memory->gpu + at, from, len));
	synchronize(memory->dmabuf, DMA_BUF_SYNC_WRITE | DMA_BUF_SYNC_START);
	memcpy(memory->va + at, from, len);
	synchronize(memory->dmabuf, DMA_BUF_SYNC_WRITE | DMA_BUF_SYNC_END);
}

void memory_copy(struct memory *memory, size_t at, int dmabuf, size_t from, size_t len)
{
	struct softaccel_segment segment = { .src = from, .dst = at, .len = len };
	struct softaccel_copy copy = {
		.segments = (uintptr_t)&segment, .count = 1, .src_fd = dmabuf, .dst_fd = memory->dmabuf, .event_fd = -1,
	};
	size_t page = from & ~4095UL, size = from + len - page;
	unsigned char *mapped;

	if (memory->accel >= 0) {
		if (ioctl(memory->accel, SOFTACCEL_COPY, &copy))
			die("SOFTACCEL_COPY");
		return;
	}
	mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, dmabuf, page);
	if (mapped == MAP_FAILED)
		die("mmap");
	synchronize(dmabuf, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_START);
	memory_store(memory, at, mapped + from - page, len);
	synchronize(dmabuf, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END);
	munmap(mapped, size);
}

void memory_fill(struct memory *memory, size_t at, size_t len, uint32_t seed)
{
	unsigned char *bytes = scratch(len);

	pattern(bytes, len, seed);
	memory_store(memory, at, bytes, len);
	free(bytes);
}

void memory_clear(struct memory *memory, size_t at, size_t len, unsigned char byte)
{
	unsigned char *bytes = scratch(len);

	memset(bytes, byte, len);
	memory_store(memory, at, bytes, len);
	free(bytes);
}

static uint32_t crc32c(const unsigned char *from, size_t len)
{
	static uint32_t table[256];
	uint32_t crc = ~0u;
	unsigned int i, bit;

	for (i = 0; !table[255] && i < 256; i++) {
		uint32_t word = i;

		for (bit = 0; bit < 8; bit++)
			word = word >> 1 ^ (word & 1 ? 0x82f63b78 : 0);
		table[i] = word;
	}
	while (len--)
		crc = table[(crc ^ *from++) & 0xff] ^ crc >> 8;
	return ~crc;
}

uint32_t memory_sum(struct memory *memory, size_t at, size_t len)
{
	struct softaccel_sum sum = { .offset = at, .len = len, .fd = memory->dmabuf };
	unsigned char *bytes;
	uint32_t crc;

	if (memory->accel >= 0) {
		if (ioctl(memory->accel, SOFTACCEL_SUM, &sum))
			die("SOFTACCEL_SUM");
		return sum.crc;
	}
	if (memory->gpu) {
		bytes = scratch(len);
		succeed("cuMemcpyDtoH", cuda.to_host(bytes, memory->gpu + at, len));
		crc = crc32c(bytes, len);
		free(bytes);
		return crc;
	}
	synchronize(memory->dmabuf, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_START);
	crc = crc32c(memory->va + at, len);
	synchronize(memory->dmabuf, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END);
	return crc;
}

uint32_t sum_of_seed(size_t len, uint32_t seed)
{
	unsigned char *bytes = scratch(len);
	uint32_t crc;

	pattern(bytes, len, seed);
	crc = crc32c(bytes, len);
	free(bytes);
	return crc;
}

uint32_t sum_of_byte(size_t len, unsigned char byte)
{
	unsigned char *bytes = scratch(len);
	uint32_t crc;

	memset(bytes, byte, len);
	crc = crc32c(bytes, len);
	free(bytes);
	return crc;
}
