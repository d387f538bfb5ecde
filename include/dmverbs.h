/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What dmverbs offers beyond libibverbs(3): messages that stay where the NIC has put them.
 *
 * A receive of ibv_post_recv(3) names a buffer, into which a message is copied. A receive of dmv_post_recv() names
 * none: dmv_take_message() tells where in the memory of the NIC's receive queue, which is memory of a device, the
 * message lies, and dmv_return_message() gives that memory back. Nothing is copied in between.
 *
 * Memory that is held is memory that the NIC lacks. Beyond half of what the queue has, of which one QP has no more
 * than three times what it leaves to others, the payload of later messages is copied to the host, and so is what comes
 * before there is a way around the host (which the first receive or message opens), or where there is none. All are of
 * the same message to the program: pieces, each of which says where it is. So much memory of the host a peer can make
 * the library take: the lengths of all receives that are posted, and of all messages that are not returned.
 *
 * A program links with libibverbs alone: under a library that is not dmverbs', or one that it has loaded itself without
 * RTLD_GLOBAL, all of this returns EOPNOTSUPP. With a C library older than glibc 2.34, link with -ldl.
 */
#ifndef DMVERBS_H
#define DMVERBS_H

#include <dlfcn.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dmv_where {
	DMV_IN_POOL,	/* in the dma-buf of the message, from offset `at` on */
	DMV_IN_HOST,	/* in the memory of the process, at address `at`; only to be read */
};

/**
 * struct dmv_piece - bytes of a message that follow each other in memory
 * @at: where they begin
 * @length: bytes, at least 1
 * @where: how `at` counts; enum dmv_where
 */
struct dmv_piece {
	uint64_t at;
	uint32_t length;
	uint32_t where;
};

/**
 * struct dmv_message - a message that was received
 * @wr_id: of its receive
 * @handle: for dmv_return_message()
 * @pieces: its pieces, in the order of its bytes
 * @num_pieces: how many; 0 for a message without payload
 * @dmabuf: the dma-buf in which they are, or -1 if none is in one. It belongs to the library. As a rule the
 *	messages of an interface and a device share one, until a queue that was lent is gone and another takes its place.
 *
 * `pieces`, `dmabuf`, and what they tell of, are valid until the message is returned. Who keeps a dma-buf for longer
 * duplicates it (dup(2)), and knows it again by its file (fstat(2)), not by its number.
 */
struct dmv_message {
	uint64_t wr_id;
	uint64_t handle;
	const struct dmv_piece *pieces;
	uint32_t num_pieces;
	int dmabuf;
};

/* The function of this name, which is looked up once. */
static inline void *dmv_symbol(void **known, const char *name)
{
	void *found = __atomic_load_n(known, __ATOMIC_RELAXED);

	if (found)
		return found;
	found = dlsym(NULL, name);
	if (found)
		__atomic_store_n(known, found, __ATOMIC_RELAXED);
	else
		dlerror();
	return found;
}

/**
 * dmv_post_recv() - post a receive that names no buffer
 * @qp: where; in any state but RESET
 * @mr: says by its memory which device the message is for: a region of that memory, of the QP's protection domain and
 *	with IBV_ACCESS_LOCAL_WRITE. If it is the host's, all of the message comes as DMV_IN_HOST. None of its bytes are
 *	touched. It stays registered until the receive completes.
 * @length: a longer message fails as one that is too long for a buffer (IBV_WC_LOC_LEN_ERR)
 * @wr_id: for the completion, and the message
 *
 * It takes its turn among those of ibv_post_recv(3). A message that completes it with success by IBV_WC_RECV can be
 * taken; RDMA WRITE with immediate data uses it up without a message to take.
 *
 * Return: 0, or EINVAL (@qp or @mr is NULL, @mr is of another protection domain or has no IBV_ACCESS_LOCAL_WRITE, the QP is in
 * RESET), ENOMEM (the receive queue is full), EOPNOTSUPP.
 */
static inline int dmv_post_recv(struct ibv_qp *qp, struct ibv_mr *mr, uint32_t length, uint64_t wr_id)
{
	static void *known;
	int (*call)(struct ibv_qp *, struct ibv_mr *, uint32_t, uint64_t);

	*(void **)&call = dmv_symbol(&known, "dmv_post_recv");
	return call ? call(qp, mr, length, wr_id) : EOPNOTSUPP;
}

/**
 * dmv_take_message() - take the oldest message that has not been taken
 * @qp: whose
 * @message: it
 *
 * Messages are in the order of their completions, and each is there before its completion can be polled. A QP that
 * fails keeps those that are complete; IBV_QPS_RESET and ibv_destroy_qp(3) return all, taken or not.
 *
 * Return: 0, or EAGAIN (there is none), EINVAL (an argument is NULL), EOPNOTSUPP.
 */
static inline int dmv_take_message(struct ibv_qp *qp, struct dmv_message *message)
{
	static void *known;
	int (*call)(struct ibv_qp *, struct dmv_message *);

	*(void **)&call = dmv_symbol(&known, "dmv_take_message");
	return call ? call(qp, message) : EOPNOTSUPP;
}

/**
 * dmv_return_message() - give the memory of a message back
 * @qp: whose
 * @handle: of the message; in any order
 *
 * Return: 0, or EINVAL (no message that is taken has this handle), EOPNOTSUPP.
 */
static inline int dmv_return_message(struct ibv_qp *qp, uint64_t handle)
{
	static void *known;
	int (*call)(struct ibv_qp *, uint64_t);

	*(void **)&call = dmv_symbol(&known, "dmv_return_message");
	return call ? call(qp, handle) : EOPNOTSUPP;
}

#ifdef __cplusplus
}
#endif

#endif
