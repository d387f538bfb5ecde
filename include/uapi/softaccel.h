/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The soft accelerator, /dev/softaccel<n>: memory that no CPU mapping exists
 * for, handed out as dma-bufs, and an engine that copies and sums it.
 *
 * All structures have the same layout for 32 and 64 bits. Fields called
 * "reserved" must be zero, otherwise the call fails with EINVAL.
 */
#ifndef _UAPI_SOFTACCEL_H
#define _UAPI_SOFTACCEL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct softaccel_info - size of the memory and what has been done with it
 * @size: bytes of memory
 * @free: bytes not allocated now
 * @copies: segments copied
 * @copied_bytes: their bytes
 * @sums: checksums computed
 * @summed_bytes: their bytes
 */
struct softaccel_info {
	__u64 size;
	__u64 free;
	__u64 copies;
	__u64 copied_bytes;
	__u64 sums;
	__u64 summed_bytes;
};

/**
 * struct softaccel_alloc - allocate memory
 * @size: bytes, a multiple of 4096; the address is aligned to the power of two
 *	that is not smaller. The memory reads as zeros.
 * @fd: out: a dma-buf with close-on-exec; closing the last reference frees it
 * @reserved: zero
 *
 * Errors: EINVAL (size), ENOMEM (no room), EMFILE, EFAULT.
 */
struct softaccel_alloc {
	__u64 size;
	__s32 fd;
	__u32 reserved;
};

/**
 * struct softaccel_segment - one piece of a copy
 * @src: offset in the source, or address if that is the caller's memory
 * @dst: offset in the destination, or address
 * @len: bytes
 *
 * Source and destination may overlap, as in memmove(3).
 */
struct softaccel_segment {
	__u64 src;
	__u64 dst;
	__u64 len;
};

#define SOFTACCEL_HOST		(-1)
#define SOFTACCEL_SEGMENTS_MAX	4096
#define SOFTACCEL_WAITING_MAX	65536

/**
 * struct softaccel_copy - copy a list of segments, in order
 * @segments: address of an array of struct softaccel_segment
 * @count: its length, at most SOFTACCEL_SEGMENTS_MAX
 * @src_fd: dma-buf of this device, or SOFTACCEL_HOST: the caller's memory
 * @dst_fd: likewise; at least one of the two is a dma-buf
 * @event_fd: -1: the call returns when all is copied. Else an eventfd to which
 *	1 is added then, and the call returns at once; both ends must be dma-bufs.
 *	Copies with an eventfd are carried out in the order of the calls;
 *	SOFTACCEL_WAITING_MAX segments of them can wait, of all callers.
 *
 * Offsets are checked before anything is copied. Errors: EINVAL (a segment
 * outside, a count, a descriptor of something else), E2BIG (too many segments),
 * EFAULT (the caller's memory; earlier bytes may have been copied), EBADF,
 * EINTR (a signal while a rate limit was waited for, or one that kills;
 * likewise), EAGAIN (too many segments wait), ENOMEM.
 */
struct softaccel_copy {
	__u64 segments;
	__u32 count;
	__s32 src_fd;
	__s32 dst_fd;
	__s32 event_fd;
};

/**
 * struct softaccel_sum - CRC32C of a range
 * @offset: first byte
 * @len: bytes
 * @fd: dma-buf of this device
 * @crc: out: CRC-32C (Castagnoli), as in RFC 3720
 *
 * Errors: EINVAL (a range outside, a descriptor of something else), EBADF,
 * EFAULT.
 */
struct softaccel_sum {
	__u64 offset;
	__u64 len;
	__s32 fd;
	__u32 crc;
};

#define SOFTACCEL_INFO	_IOR(0xd5, 0, struct softaccel_info)
#define SOFTACCEL_ALLOC	_IOWR(0xd5, 1, struct softaccel_alloc)
#define SOFTACCEL_COPY	_IOW(0xd5, 2, struct softaccel_copy)
#define SOFTACCEL_SUM	_IOWR(0xd5, 3, struct softaccel_sum)

#endif
