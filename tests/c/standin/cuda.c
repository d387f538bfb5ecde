/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stand-in for CUDA's driver, libcuda.so.1, with one GPU: as much of it as dmverbs and cuda.c call.
 *
 * The GPU's addresses belong to nobody in the process: who touches them without the driver dies of it. A copy on a
 * stream is carried out when the stream is synchronized, and not before; a call without a context fails. Where there is
 * /dev/udmabuf, ranges have dma-bufs.
 *
 * STANDIN_CUDA_BUSY   the GPU computes for ever, and cuMemFree waits for it
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int result;
typedef unsigned long long address;

enum {
	SUCCESS = 0,
	INVALID_VALUE = 1,
	OUT_OF_MEMORY = 2,
	NOT_INITIALIZED = 3,
	INVALID_CONTEXT = 201,
	ILLEGAL_ADDRESS = 700,
	CONTEXT_IS_DESTROYED = 709,
	NOT_SUPPORTED = 801,
};

enum {
	SIZE = 256 << 20,
	ALLOCATIONS = 256,
	COPIES = 4096,
	DEPTH = 8,
};

struct allocation {
	address start;
	size_t size;
};

/* A copy that waits for its stream; what is NULL is the GPU's. */
struct copy {
	void *host_to;
	const void *host_from;
	address to;
	address from;
	size_t len;
};

struct stream {
	unsigned long long context;	/* its identity */
	struct copy copies[COPIES];
	int count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static address base;	/* of addresses that nobody has */
static char *memory;	/* what they hold, and its file */
static int memfd;
static size_t used;
static struct allocation allocations[ALLOCATIONS];
static int context;	/* its address stands for the only one */
static unsigned long long identity = 1;

static __thread void *stack[DEPTH];
static __thread int depth;

/* Of the allocation with all of these bytes, or NULL. */
static struct allocation *find(address at, size_t len)
{
	for (int i = 0; i < ALLOCATIONS; i++) {
		struct allocation *a = &allocations[i];

		if (a->size && at >= a->start && at - a->start <= a->size && len <= a->size - (at - a->start))
			return a;
	}
	return NULL;
}

result cuInit(unsigned int flags)
{
	if (flags)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	if (!base) {
		void *nobody = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		memfd = memfd_create("gpu", MFD_ALLOW_SEALING | MFD_CLOEXEC);
		if (memfd < 0 || ftruncate(memfd, SIZE) || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
			abort();
		memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
		if (nobody == MAP_FAILED || memory == MAP_FAILED)
			abort();
		base = (address)(uintptr_t)nobody;
	}
	pthread_mutex_unlock(&lock);
	return SUCCESS;
}

result cuDevicePrimaryCtxRetain(void **into, int ordinal)
{
	if (!base)
		return NOT_INITIALIZED;
	if (ordinal)
		return INVALID_VALUE;
	*into = &context;
	return SUCCESS;
}

/* All that was in the context is gone. */
result cuDevicePrimaryCtxReset_v2(int ordinal)
{
	if (ordinal)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	memset(allocations, 0, sizeof(allocations));
	identity++;
	pthread_mutex_unlock(&lock);
	return SUCCESS;
}

result cuCtxGetId(void *of, unsigned long long *id)
{
	if (of != &context)
		return INVALID_CONTEXT;
	*id = identity;
	return SUCCESS;
}

result cuCtxPushCurrent_v2(void *of)
{
	if (of != &context || depth == DEPTH)
		return INVALID_CONTEXT;
	stack[depth++] = of;
	return SUCCESS;
}

result cuCtxPopCurrent_v2(void **of)
{
	if (!depth)
		return INVALID_CONTEXT;
	*of = stack[--depth];
	return SUCCESS;
}

result cuCtxGetCurrent(void **of)
{
	*of = depth ? stack[depth - 1] : NULL;
	return SUCCESS;
}

result cuMemAlloc_v2(address *at, size_t size)
{
	size_t rounded = (size + 511) & ~(size_t)511;
	result done = OUT_OF_MEMORY;

	if (!depth)
		return INVALID_CONTEXT;
	if (!size)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < ALLOCATIONS && rounded <= SIZE - used; i++) {
		if (allocations[i].size)
			continue;
		allocations[i] = (struct allocation){ .start = base + used, .size = size };
		used += rounded;
		*at = allocations[i].start;
		done = SUCCESS;
		break;
	}
	pthread_mutex_unlock(&lock);
	return done;
}

result cuMemFree_v2(address at)
{
	struct allocation *a;

	if (!depth)
		return INVALID_CONTEXT;
	while (getenv("STANDIN_CUDA_BUSY"))
		pause();
	pthread_mutex_lock(&lock);
	a = find(at, 0);
	if (a && a->start == at)
		a->size = 0;
	pthread_mutex_unlock(&lock);
	return a ? SUCCESS : INVALID_VALUE;
}

result cuPointerGetAttribute(void *into, int attribute, address at)
{
	struct allocation *a;
	result done = SUCCESS;

	if (!base)
		return NOT_INITIALIZED;
	pthread_mutex_lock(&lock);
	a = find(at, 1);
	if (!a)
		done = INVALID_VALUE;
	else if (attribute == 1)
		*(void **)into = &context;
	else if (attribute == 2)
		*(unsigned int *)into = 2;
	else if (attribute == 8)
		*(unsigned int *)into = 0;
	else if (attribute == 9)
		*(int *)into = 0;
	else if (attribute == 11)
		*(address *)into = a->start;
	else if (attribute == 12)
		*(size_t *)into = a->size;
	else
		done = INVALID_VALUE;
	pthread_mutex_unlock(&lock);
	return done;
}

result cuPointerSetAttribute(const void *value, int attribute, address at)
{
	(void)value;
	return attribute == 6 && find(at, 1) ? SUCCESS : INVALID_VALUE;
}

result cuMemGetHandleForAddressRange(void *handle, address at, size_t size, int type, unsigned long long flags)
{
	struct udmabuf_create create = { .memfd = memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .offset = at - base, .size = size };
	int device, fd;

	if (!depth)
		return INVALID_CONTEXT;
	if (type != 1 || flags || at < base || at - base > SIZE || size > SIZE - (at - base))
		return INVALID_VALUE;
	device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return NOT_SUPPORTED;
	fd = ioctl(device, UDMABUF_CREATE, &create);
	close(device);
	if (fd < 0)
		return INVALID_VALUE;
	*(int *)handle = fd;
	return SUCCESS;
}

result cuStreamCreate(void **stream, unsigned int flags)
{
	(void)flags;
	if (!depth)
		return INVALID_CONTEXT;
	*stream = calloc(1, sizeof(struct stream));
	if (!*stream)
		return OUT_OF_MEMORY;
	((struct stream *)*stream)->context = identity;
	return SUCCESS;
}

static result carry_out(const struct copy *copy)
{
	void *to = copy->host_to;
	const void *from = copy->host_from;

	if ((!to && !find(copy->to, copy->len)) || (!from && !find(copy->from, copy->len)))
		return ILLEGAL_ADDRESS;
	memmove(to ? to : memory + (copy->to - base), from ? from : memory + (copy->from - base), copy->len);
	return SUCCESS;
}

result cuStreamSynchronize(void *of)
{
	struct stream *stream = of;
	result done = SUCCESS;

	pthread_mutex_lock(&lock);
	if (stream->context != identity)
		done = CONTEXT_IS_DESTROYED;
	for (int i = 0; i < stream->count && done == SUCCESS; i++)
		done = carry_out(&stream->copies[i]);
	stream->count = 0;
	pthread_mutex_unlock(&lock);
	return done;
}

static result queue(void *of, struct copy copy)
{
	struct stream *stream = of;
	result done = SUCCESS;

	if (!depth)
		return INVALID_CONTEXT;
	pthread_mutex_lock(&lock);
	if (stream->count < COPIES)
		stream->copies[stream->count++] = copy;
	else
		done = OUT_OF_MEMORY;
	pthread_mutex_unlock(&lock);
	return done;
}

result cuMemcpyDtoHAsync_v2(void *to, address from, size_t len, void *stream)
{
	return queue(stream, (struct copy){ .host_to = to, .from = from, .len = len });
}

result cuMemcpyHtoDAsync_v2(address to, const void *from, size_t len, void *stream)
{
	return queue(stream, (struct copy){ .to = to, .host_from = from, .len = len });
}

result cuMemcpyDtoDAsync_v2(address to, address from, size_t len, void *stream)
{
	return queue(stream, (struct copy){ .to = to, .from = from, .len = len });
}

static result at_once(struct copy copy)
{
	result done;

	if (!depth)
		return INVALID_CONTEXT;
	pthread_mutex_lock(&lock);
	done = carry_out(&copy);
	pthread_mutex_unlock(&lock);
	return done;
}

result cuMemcpyDtoH_v2(void *to, address from, size_t len)
{
	return at_once((struct copy){ .host_to = to, .from = from, .len = len });
}

result cuMemcpyHtoD_v2(address to, const void *from, size_t len)
{
	return at_once((struct copy){ .to = to, .host_from = from, .len = len });
}

result cuGetErrorString(result of, const char **text)
{
	switch (of) {
	case SUCCESS:
		*text = "no error";
		return SUCCESS;
	case ILLEGAL_ADDRESS:
		*text = "an illegal memory access was encountered";
		return SUCCESS;
	default:
		*text = NULL;
		return INVALID_VALUE;
	}
}
