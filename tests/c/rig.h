/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the test programs share: a device, connected ends, posting, and saying
 * what happened.
 *
 * A program prints behaviour only, never an address, a key, a number of a queue
 * pair or a time, so that its text is the same on every provider. Whatever a
 * test merely relies on is wrapped in need(), which ends the program.
 */
#ifndef RIG_H
#define RIG_H

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* How an end is made and connected. */
struct setup {
	unsigned int access;	/* of the memory and of the queue pair */
	uint8_t timeout;
	uint8_t retry_cnt;
	uint8_t rnr_retry;
	uint8_t min_rnr_timer;
	uint8_t rd_atomic;	/* READs and atomics under way, both ways */
	struct ibv_qp_cap cap;
	bool sig_all;
	bool extended;		/* ibv_wr_start() and so on may be used */
	size_t memory;		/* bytes */
	int cqe;		/* of each completion queue */
	struct ibv_cq *send_cq;	/* NULL: its own */
	struct ibv_cq *recv_cq;
	struct ibv_comp_channel *channel;	/* of its own queues; may be NULL */
};

/* Patient: errors come from faults, not from a slow machine. */
extern const struct setup usual;

/* Gives up soon when nobody answers, and at once when no receive is posted. */
extern const struct setup hasty;

/* What a peer must know of an end. */
struct address {
	uint32_t qpn;
	uint32_t psn;
	uint32_t rkey;
	uint16_t lid;
	uint64_t addr;
	union ibv_gid gid;
};

/* A queue pair with its completion queues and some registered memory. */
struct end {
	struct setup setup;
	struct ibv_pd *pd;
	struct ibv_cq *send_cq;
	struct ibv_cq *recv_cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	uint8_t *buf;
	struct address self;
	struct address peer;
};

/* A request for ask(); what is left out is 0, which asks for the usual. */
struct ask {
	uint64_t id;
	enum ibv_wr_opcode op;
	unsigned int flags;	/* besides IBV_SEND_SIGNALED */
	bool unsignaled;
	size_t at;		/* offset in our memory */
	size_t len;
	size_t to;		/* offset in the peer's memory */
	uint32_t imm;		/* in host order; or the key to invalidate */
	uint64_t compare_add;
	uint64_t swap;
	uint32_t lkey;		/* instead of our memory's */
	uint32_t rkey;		/* instead of the peer's */
	uint64_t remote_addr;	/* instead of the peer's memory and `to` */
	struct ibv_sge *sges;	/* instead of at, len and lkey */
	int num_sge;
};

/* A second process, made by fork_peer(). */
struct process {
	pid_t child;	/* 0 in the child itself */
	int fd;		/* to the other one */
};

/* ---- device ---- */

extern struct ibv_context *device;
extern struct ibv_port_attr port;
extern union ibv_gid gid;
extern int gid_index;

/*
 * Opens the device named by the first argument or by VERBS_TEST_DEVICE, else
 * the first whose port 1 is active. Where there is none the program fails: a
 * provider that offers no device must not pass for one that works.
 * VERBS_TEST_GID is the index of the GID to use, 0 if unset.
 */
void rig_open(int argc, char **argv);
void rig_close(void);

/* ---- ends ---- */

struct end end_make(const struct setup *setup);
int end_to_init(struct end *end);
int end_to_rtr(struct end *end, const struct address *peer);
int end_to_rts(struct end *end);
int end_to(struct end *end, enum ibv_qp_state state);
enum ibv_qp_state end_state(const struct end *end);
void end_connect(struct end *end, const struct address *peer);
void end_drop(struct end *end);

/* Two connected ends in this process. */
void pair_make(struct end *a, struct end *b, const struct setup *setup);
void pair_drop(struct end *a, struct end *b);

/* An end connected to one of the other process. */
struct end end_join(const struct process *other, const struct setup *setup);

/* ---- posting ---- */

/* Gives what ibv_post_send() gives. */
int try_ask(struct end *end, struct ask ask);
void ask(struct end *end, struct ask ask);
int try_recv(struct end *end, uint64_t id, size_t at, size_t len);
void post_recv(struct end *end, uint64_t id, size_t at, size_t len);
void post_recv_sges(struct end *end, uint64_t id, struct ibv_sge *sges, int num_sge);
struct ibv_sge sge(const struct end *end, size_t at, size_t len);

/* ---- completions ---- */

/* The next completion; ends the program if none comes. */
struct ibv_wc poll_one(struct ibv_cq *cq);
/* The next completion, which must be this one and a success. */
struct ibv_wc expect(struct ibv_cq *cq, uint64_t id);
/* True if no completion comes for so long. */
bool quiet(struct ibv_cq *cq, int milliseconds);
/* Prints which request it was, and how it ended. */
void show(const char *what, const struct ibv_wc *wc);
void show_next(const char *what, struct ibv_cq *cq);

/* ---- processes ---- */

/* The child dies with its parent, and opens a device of its own. */
struct process fork_peer(void);
void tell(int fd, const void *bytes, size_t len);
void hear(int fd, void *bytes, size_t len);
/* Waits until the other process also gets here. */
void meet(const struct process *other);
/* In the child: joins an end to the parent's, which is to be as hasty, and does nothing more. */
_Noreturn void serve_until_killed(const struct process *parent);
/* In the parent. */
void kill_peer(const struct process *child);
/* In the parent: stops the child, all of which stands still on return. A signal alone takes its time to arrive. */
void stop_peer(const struct process *child);
/* In the parent: waits for a child that stops itself. */
void wait_stopped(const struct process *child);
/* In the parent. */
void continue_peer(const struct process *child);
/* In the parent: waits for the child, whose failure is ours too. */
void join(const struct process *child);

/* ---- memory, time, text ---- */

void *pages(size_t len);
void fill(uint8_t *bytes, size_t len, uint32_t seed);
bool filled(const uint8_t *bytes, size_t len, uint32_t seed);
/* True if all bytes are `value`. */
bool all(const uint8_t *bytes, size_t len, uint8_t value);
uint64_t now_ms(void);
/* True once the byte has this value; false if it doesn't take it for long. */
bool becomes(const volatile uint8_t *byte, uint8_t value);

__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
/* Prints "what: yes" or "what: no". */
void yes(const char *what, bool is);
/* Prints "what: ok" or "what: " and the name of the error. */
void outcome(const char *what, int error);
/* The errno of a call that gives NULL or -1 for a failure. */
int errno_if(bool failed);
/*
 * For where devices may differ: gives `error`, but where VERBS_TEST_LENIENT is set
 * and it is `other`, gives what is wanted, and says so on stderr.
 */
int lenient(int error, int other, int wanted);
/* Ends the program, which is then counted as skipped. */
__attribute__((noreturn)) void skip(const char *why);
__attribute__((noreturn)) void broken(const char *file, int line, const char *what);

#define need(condition) \
	do { \
		if (!(condition)) \
			broken(__FILE__, __LINE__, #condition); \
	} while (0)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
