/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory of a kind, that is filled and checked without mapping it where that cannot be. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stddef.h>
#include <stdint.h>

struct memory {
	size_t size;
	/* What a kind lacks is NULL or -1. */
	unsigned char *va;
	int dmabuf;
	int accel;
	uint64_t gpu;	/* an address of the driver's, or 0 */
};

/* kind: host, udmabuf, heap, softaccel, cuda, cuda_dmabuf. Ends the process if there is none. */
void memory_make(struct memory *memory, const char *kind, size_t size);
void memory_free(struct memory *memory);

/* Bytes that follow from the seed. */
void memory_fill(struct memory *memory, size_t at, size_t len, uint32_t seed);
/* One byte all over. */
void memory_clear(struct memory *memory, size_t at, size_t len, unsigned char byte);
/* Bytes of the host's. */
void memory_store(struct memory *memory, size_t at, const void *from, size_t len);
/* Bytes of another dma-buf of the same kind. */
void memory_copy(struct memory *memory, size_t at, int dmabuf, size_t from, size_t len);
/* CRC-32C of a range, by the accelerator itself if it is its. */
uint32_t memory_sum(struct memory *memory, size_t at, size_t len);
/* What that should be. */
uint32_t sum_of_seed(size_t len, uint32_t seed);
uint32_t sum_of_byte(size_t len, unsigned char byte);

void die(const char *what);

#endif
