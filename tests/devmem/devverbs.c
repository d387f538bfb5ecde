// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * RC between two processes, from and to memory of a choice.
 *
 *   devverbs serve -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-r] [-c] [-i BYTES]
 *   devverbs check -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-q QPS] [-k N] [-w] HOST
 *   devverbs speed -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-q QPS] [-o OPERATION] [-s BYTES] [-n BYTES] [-w] HOST
 *   devverbs hold -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-q QPS] [-s BYTES] [-n BYTES] [-w] HOST
 *   devverbs early -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-s BYTES] [-w] HOST
 *
 * MEMORY is host, udmabuf, heap, softaccel, cuda or cuda_dmabuf, of each side on its own. "check" goes through WRITE,
 * WRITE with immediate data, READ, SEND, and SEND to a receive in place, of sizes from 1 byte to 8 MiB (of every Nth
 * with -k N) at odd offsets; what arrives is compared by checksum, and so are the bytes before and behind it; with -w
 * again and again, until standard input has a line or ends. "speed" measures one operation; what is received in place
 * is looked at once. "hold" has the server hold as many messages, received in place, as are -n bytes, the last one by
 * the last QP; if a client of one QP is killed meanwhile, the server says how many of them are right. "early" sends as
 * many messages as a server with -i has receives posted before its queue pairs are connected, in place. With -w these
 * three say "ready" before, and "done" after, and wait for a line each time; "speed" then measures again if there is
 * anything in the line. The server serves one client, and ends with it; with -r it registers its memory anew when that
 * has come, and with -c it leaves a child behind that sleeps for ever.
 */

#include <arpa/inet.h>
#include <dmverbs.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "control.h"
#include "memory.h"

#define SIZE	   (24UL << 20)	/* of the registered memory */
#define QPS_MAX	   128
#define DEPTH	   16
#define HELD_MAX   4096		/* messages */
#define FIRST_HELD 3		/* seed of the first; the next have the next */
#define MARGIN	   64		/* bytes that are looked at around what arrives */
#define UNTOUCHED  0xee
#define CHILDREN   1000
#define IOVA	   0x10000000UL	/* of memory whose address is of no matter */

enum operation { WRITE, WRITE_IMM, READ, SEND, SEND_IN_PLACE, OPERATIONS };

static const char *const names[OPERATIONS] = { "WRITE", "WRITE_WITH_IMM", "READ", "SEND", "SEND_IN_PLACE" };

/* What the client has the server do. */
enum { FILL, CLEAR, RECEIVE, RECEIVE_IN_PLACE, STREAM, GATHER, HOLD, RETURN, AWAIT, SUM, END };

struct command {
	uint32_t what, qp, seed, count;
	uint64_t at, len;
};

struct peer {
	union ibv_gid gid;
	uint64_t iova;
	uint32_t rkey, qps;
	uint32_t qpn[QPS_MAX];
};

static const char *device, *kind = "host", *port = "18600";
static int gid_index;
static int timeout = 20;
static unsigned int qps = 1;
static uint32_t early_len;
static struct memory memory;
static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_mr *mr;
static uint64_t iova = IOVA;
static struct ibv_comp_channel *channel;
static struct ibv_cq *cq;
static struct ibv_qp *qp[QPS_MAX];
static struct peer theirs;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static struct ibv_context *open_device(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL), **entry;
	struct ibv_context *opened = NULL;

	for (entry = list; entry && *entry; entry++)
		if (!strcmp(ibv_get_device_name(*entry), device))
			opened = ibv_open_device(*entry);
	if (list)
		ibv_free_device_list(list);
	if (!opened)
		complain(device, "cannot be opened");
	return opened;
}

static void register_memory(void)
{
	int rights = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;

	/* A dma-buf of a GPU's memory is registered at the memory's own address, as NCCL and perftest do. */
	if (memory.dmabuf >= 0 && memory.gpu)
		iova = memory.gpu;
	if (memory.dmabuf >= 0)
		mr = ibv_reg_dmabuf_mr(pd, 0, SIZE, iova, memory.dmabuf, rights);
	else
		mr = ibv_reg_mr_iova(pd, memory.gpu ? (void *)memory.gpu : memory.va, SIZE, iova, rights);
	if (!mr)
		die("the memory cannot be registered");
}

static void open_all(void)
{
	context = open_device();
	pd = ibv_alloc_pd(context);
	channel = ibv_create_comp_channel(context);
	cq = pd && channel ? ibv_create_cq(context, QPS_MAX * DEPTH * 2, NULL, channel, 0) : NULL;
	if (!cq)
		die("ibv_create_cq");
	register_memory();
}

static void close_all(void)
{
	ibv_dereg_mr(mr);
	ibv_destroy_cq(cq);
	ibv_destroy_comp_channel(channel);
	ibv_dealloc_pd(pd);
	ibv_close_device(context);
}

static void receive_in_place(unsigned int which, uint32_t len)
{
	errno = dmv_post_recv(qp[which], mr, len, which);
	if (errno)
		die("dmv_post_recv");
}

/* Both sides make as many QPs as the client says, and tell each other of them. */
static void connect_qps(int fd)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = DEPTH, .max_recv_wr = DEPTH, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	struct ibv_qp_attr attr;
	struct peer ours = { .iova = iova, .rkey = mr->rkey, .qps = qps };
	unsigned int i, n;

	if (ibv_query_gid(context, 1, gid_index, &ours.gid))
		die("ibv_query_gid");
	for (i = 0; i < qps; i++) {
		qp[i] = ibv_create_qp(pd, &init);
		if (!qp[i])
			die("ibv_create_qp");
		ours.qpn[i] = qp[i]->qp_num;
	}
	put(fd, &ours, sizeof(ours));
	get(fd, &theirs, sizeof(theirs));
	for (i = 0; i < qps; i++) {
		attr = (struct ibv_qp_attr){
			.qp_state = IBV_QPS_INIT, .port_num = 1,
			.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
		};
		if (ibv_modify_qp(qp[i], &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS))
			die("INIT");
		for (n = 0; early_len && n < DEPTH; n++)
			receive_in_place(i, early_len);
		attr = (struct ibv_qp_attr){
			.qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_1024, .dest_qp_num = theirs.qpn[i],
			.max_dest_rd_atomic = 4, .min_rnr_timer = 12,
			.ah_attr = { .is_global = 1, .port_num = 1,
				     .grh = { .dgid = theirs.gid, .sgid_index = gid_index, .hop_limit = 64 } },
		};
		if (ibv_modify_qp(qp[i], &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				  IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))
			die("RTR");
		attr = (struct ibv_qp_attr){ .qp_state = IBV_QPS_RTS, .timeout = timeout, .retry_cnt = 7, .rnr_retry = 7,
					     .max_rd_atomic = 4 };
		if (ibv_modify_qp(qp[i], &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				  IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC))
			die("RTS");
	}
	/* Nobody sends before the other is ready. */
	put(fd, "r", 1);
	get(fd, &(char){ 0 }, 1);
}

/* At most so many completions, at most DEPTH, all of them successes. */
static unsigned int poll_some(unsigned int most, struct ibv_wc *wc)
{
	int n = ibv_poll_cq(cq, most < DEPTH ? most : DEPTH, wc), i;

	if (n < 0)
		die("ibv_poll_cq");
	for (i = 0; i < n; i++)
		if (wc[i].status != IBV_WC_SUCCESS)
			complain("completion", ibv_wc_status_str(wc[i].status));
	return n;
}

/* At least one completion; asleep until there is one. */
static unsigned int await_some(unsigned int most, struct ibv_wc *wc)
{
	for (;;) {
		struct ibv_cq *of;
		void *data;
		unsigned int n = poll_some(most, wc);

		if (n)
			return n;
		if (ibv_req_notify_cq(cq, 0))
			die("ibv_req_notify_cq");
		n = poll_some(most, wc);
		if (n)
			return n;
		if (ibv_get_cq_event(channel, &of, &data))
			die("ibv_get_cq_event");
		ibv_ack_cq_events(of, 1);
	}
}

/* Gives the immediate data of the last one, or 0. */
static uint32_t await(unsigned int completions)
{
	struct ibv_wc wc[DEPTH], *last;
	unsigned int n;

	do {
		n = await_some(completions, wc);
		last = &wc[n - 1];
	} while (completions -= n);
	return last->wc_flags & IBV_WC_WITH_IMM ? ntohl(last->imm_data) : 0;
}

static void receive(unsigned int which, uint64_t at, uint32_t len)
{
	struct ibv_sge sge = { .addr = iova + at, .length = len, .lkey = mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = which, .sg_list = &sge, .num_sge = 1 }, *bad;

	if (ibv_post_recv(qp[which], &wr, &bad))
		die("ibv_post_recv");
}

static struct dmv_message take(unsigned int which)
{
	struct dmv_message message;

	errno = dmv_take_message(qp[which], &message);
	if (errno)
		die("dmv_take_message");
	return message;
}

/* Copies a message to where it can be looked at; returns its length. */
static uint32_t gather(const struct dmv_message *message, uint64_t at)
{
	uint64_t start = at;
	uint32_t i;

	for (i = 0; i < message->num_pieces; i++) {
		const struct dmv_piece *piece = &message->pieces[i];

		if (piece->where == DMV_IN_POOL)
			memory_copy(&memory, at, message->dmabuf, piece->at, piece->length);
		else
			memory_store(&memory, at, (const void *)piece->at, piece->length);
		at += piece->length;
	}
	return at - start;
}

static void give_back(unsigned int which, const struct dmv_message *message)
{
	errno = dmv_return_message(qp[which], message->handle);
	if (errno)
		die("dmv_return_message");
}

static void ask(unsigned int which, enum operation operation, uint64_t at, uint64_t remote, uint32_t len)
{
	static const enum ibv_wr_opcode opcodes[OPERATIONS] = {
		IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_RDMA_READ, IBV_WR_SEND, IBV_WR_SEND,
	};
	struct ibv_sge sge = { .addr = iova + at, .length = len, .lkey = mr->lkey };
	struct ibv_send_wr *bad, wr = {
		.sg_list = &sge, .num_sge = 1, .opcode = opcodes[operation], .send_flags = IBV_SEND_SIGNALED,
		.imm_data = htonl(len), .wr.rdma = { .remote_addr = theirs.iova + remote, .rkey = theirs.rkey },
	};

	errno = ibv_post_send(qp[which], &wr, &bad);
	if (errno)
		die("ibv_post_send");
}

static unsigned int which_qp(uint32_t qp_num)
{
	unsigned int which = 0;

	while (qp[which]->qp_num != qp_num)
		which++;
	return which;
}

/*
 * Receives `count` messages of `len` bytes, by all QPs in turns, always with receives ahead of them. What comes in
 * place is not looked at but for the last, which is copied to `at`.
 */
static void stream(bool in_place, uint64_t count, uint64_t at, uint32_t len)
{
	uint64_t left[QPS_MAX], done = 0;
	struct dmv_message message;
	struct ibv_wc wc[DEPTH];
	unsigned int which, i, n;

	for (which = 0; which < qps; which++) {
		left[which] = count / qps + (which < count % qps);
		for (i = 0; i < DEPTH && left[which]; i++, left[which]--) {
			if (in_place)
				receive_in_place(which, len);
			else
				receive(which, at, len);
		}
	}
	while (done < count) {
		n = await_some(count - done, wc);
		for (i = 0; i < n; i++) {
			which = wc[i].wr_id;
			done++;
			if (in_place) {
				message = take(which);
				if (done == count)
					gather(&message, at);
				give_back(which, &message);
			}
			if (!left[which])
				continue;
			left[which]--;
			if (in_place)
				receive_in_place(which, len);
			else
				receive(which, at, len);
		}
	}
}

/* What messages are held have, by their order, when their sender is gone. */
static void outlive(const struct dmv_message *held, unsigned int count)
{
	unsigned int right = 0, i;
	uint32_t len;

	for (i = count; i--;) {
		len = gather(&held[i], 0);
		give_back(0, &held[i]);
		right += memory_sum(&memory, 0, len) == sum_of_seed(len, i + FIRST_HELD);
	}
	printf("%u of %u messages outlived their sender\n", right, count);
}

static void serve(int fd)
{
	static struct dmv_message held[HELD_MAX];
	struct dmv_message message;
	struct command command;
	unsigned int holds = 0;
	uint32_t sum;

	for (;;) {
		sum = 0;
		if (holds && !heard(fd, &command, sizeof(command)))
			return outlive(held, holds);
		if (!holds)
			get(fd, &command, sizeof(command));
		switch (command.what) {
		case FILL:
			memory_fill(&memory, command.at, command.len, command.seed);
			break;
		case CLEAR:
			memory_clear(&memory, command.at, command.len, command.seed);
			break;
		case RECEIVE:
			receive(command.qp, command.at, command.len);
			break;
		case RECEIVE_IN_PLACE:
			receive_in_place(command.qp, command.len);
			break;
		case STREAM:
			stream(command.qp, command.count, command.at, command.len);
			break;
		case GATHER:
			message = take(command.qp);
			gather(&message, command.at);
			give_back(command.qp, &message);
			break;
		case HOLD:
			if (holds == HELD_MAX)
				complain("the client", "wants too many messages held");
			held[holds++] = take(command.qp);
			break;
		case RETURN:
			/* The last that is held: what lies there now. */
			if (!holds)
				complain("the client", "wants a message returned that is not held");
			gather(&held[--holds], command.at);
			give_back(command.qp, &held[holds]);
			break;
		case AWAIT:
			sum = await(command.len);
			break;
		case SUM:
			sum = memory_sum(&memory, command.at, command.len);
			break;
		default:
			return;
		}
		put(fd, &sum, sizeof(sum));
	}
}

/* Has the server do something, and waits for it. */
static uint32_t tell(int fd, struct command command)
{
	uint32_t sum;

	put(fd, &command, sizeof(command));
	get(fd, &sum, sizeof(sum));
	return sum;
}

static uint32_t sum_at(int fd, bool here, uint64_t at, uint64_t len)
{
	return here ? memory_sum(&memory, at, len) : tell(fd, (struct command){ .what = SUM, .at = at, .len = len });
}

/* One operation with a payload of `len` bytes; false if what arrived is wrong. */
static bool check_one(int fd, unsigned int which, enum operation operation, uint32_t len, uint32_t seed)
{
	/* Odd places, and others: source, and target with room around it. */
	uint64_t from = seed % 3 ? seed * 37 % 4096 : 0, to = (seed % 5 ? seed * 101 % 8192 : 4096) + MARGIN;
	bool here = operation == READ;
	struct command clear = { .what = CLEAR, .seed = UNTOUCHED, .at = to - MARGIN, .len = len + 2 * MARGIN };
	uint64_t source = from + (SIZE / 2), ends[2] = { to - MARGIN, to + len };
	uint32_t imm = 0;
	unsigned int i;

	if (here) {
		memory_clear(&memory, clear.at, clear.len, UNTOUCHED);
		tell(fd, (struct command){ .what = FILL, .at = source, .len = len, .seed = seed });
		ask(which, operation, to, source, len);
	} else {
		tell(fd, clear);
		memory_fill(&memory, source, len, seed);
		if (operation != WRITE)
			tell(fd, (struct command){ .what = operation == SEND_IN_PLACE ? RECEIVE_IN_PLACE : RECEIVE,
						   .qp = which, .at = to, .len = len });
		ask(which, operation, source, to, len);
	}
	await(1);
	if (operation != WRITE && operation != READ)
		imm = tell(fd, (struct command){ .what = AWAIT, .len = 1 });
	if (imm != (operation == WRITE_IMM ? len : 0)) {
		printf("%s of %u bytes: immediate data %u\n", names[operation], len, imm);
		return false;
	}
	if (operation == SEND_IN_PLACE)
		tell(fd, (struct command){ .what = GATHER, .qp = which, .at = to });
	if (sum_at(fd, here, to, len) != sum_of_seed(len, seed)) {
		printf("%s of %u bytes: other bytes arrived\n", names[operation], len);
		return false;
	}
	for (i = 0; i < 2; i++) {
		if (sum_at(fd, here, ends[i], MARGIN) != sum_of_byte(MARGIN, UNTOUCHED)) {
			printf("%s of %u bytes: bytes %s it changed\n", names[operation], len, i ? "behind" : "before");
			return false;
		}
	}
	return true;
}

/* Standard input has a line, or has ended. */
static bool is_told(void)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

	return poll(&input, 1, 0) > 0;
}

/* Every operation with every `every`th size; if it waits, again and again until it is told that this is enough. */
static int check(int fd, unsigned int every, bool waits)
{
	static const uint32_t sizes[] = { 1, 2, 3, 7, 64, 100, 1000, 4095, 4096, 4097, 10001, 65536, 100001, 262144,
					  262145, 1 << 20, (1 << 20) + 1, 8 << 20 };
	unsigned int i, seed = 1, wrong = 0, done = 0;
	int operation;

	do {
		for (operation = 0; operation < OPERATIONS; operation++)
			for (i = 0; i < sizeof(sizes) / sizeof(*sizes); i += every, seed++, done++)
				wrong += !check_one(fd, seed % qps, operation, sizes[i], seed);
	} while (waits && !is_told());
	printf("%u of %u transfers right\n", done - wrong, done);
	return wrong != 0;
}

/* Returns whether there is anything in the line. */
static bool wait_for_line(const char *what)
{
	bool any = false;
	int c;

	puts(what);
	for (; (c = getchar()) != '\n'; any = true)
		if (c == EOF)
			complain("standard input", "no line");
	return any;
}

/* Returns the seconds that it takes. */
static double measure(int fd, enum operation operation, uint32_t size, uint64_t count, unsigned int places)
{
	bool received = operation != WRITE && operation != READ;
	unsigned int outstanding[QPS_MAX] = {}, n;
	uint64_t begun = 0, done = 0, at;
	struct ibv_wc wc[DEPTH];
	double start = now();
	uint32_t answer;

	if (received)
		put(fd, &(struct command){ .what = STREAM, .qp = operation == SEND_IN_PLACE, .count = count, .at = SIZE / 2,
					   .len = size }, sizeof(struct command));
	while (done < count) {
		/* In turns; the next may be slower than others. */
		while (begun < count && outstanding[begun % qps] < DEPTH / 2) {
			at = begun % places * size;
			ask(begun % qps, operation, at, SIZE / 2 + at, size);
			outstanding[begun++ % qps]++;
		}
		n = await_some(DEPTH, wc);
		done += n;
		while (n--)
			outstanding[which_qp(wc[n].qp_num)]--;
	}
	if (received)
		get(fd, &answer, sizeof(answer));
	return now() - start;
}

static void speed(int fd, enum operation operation, uint32_t size, uint64_t total, bool waits)
{
	/* WRITE and READ: each QP has bytes of its own, and a place for them, where there is room for that. */
	bool own = (operation == WRITE || operation == READ) && qps * (uint64_t)size <= SIZE / 2 && qps <= total / size;
	unsigned int places = own ? qps : 1;
	bool here = operation == READ;
	uint64_t count = total / size, target = here ? 0 : SIZE / 2, i, at;

	/* The first one opens what is needed for the rest. */
	for (i = 0; i < qps * 2; i++)
		if (!check_one(fd, i % qps, operation, size, i))
			complain("speed", "other bytes arrived");
	for (i = 0; i < places; i++) {
		if (here)
			tell(fd, (struct command){ .what = FILL, .at = SIZE / 2 + i * size, .len = size, .seed = 7 + i });
		else
			memory_fill(&memory, i * size, size, 7 + i);
	}
	if (waits)
		wait_for_line("ready");
	while (true) {
		printf("%s of %u bytes: %.1f MB/s\n", names[operation], size,
		       count * size / measure(fd, operation, size, count, places) / 1e6);
		for (i = 0; i < places; i++) {
			at = target + i * size;
			if (sum_at(fd, here, at, size) != sum_of_seed(size, 7 + i))
				complain("speed", "other bytes arrived");
		}
		if (!waits || !wait_for_line("done"))
			break;
		/* What is there is not to be taken for what arrives. */
		if (here)
			memory_clear(&memory, target, places * size, UNTOUCHED);
		else
			tell(fd, (struct command){ .what = CLEAR, .seed = UNTOUCHED, .at = target, .len = places * size });
	}
}

/* More than the queue can spare are held, and all are right; when they have been returned, the next stays in place. */
static int hold(int fd, uint32_t size, uint64_t total, bool waits)
{
	unsigned int wrong = 0, last = qps - 1, which;
	uint64_t count = total / size, i;

	for (i = 0; i < qps; i++)
		wrong += !check_one(fd, i, SEND_IN_PLACE, size, 1);
	if (waits)
		wait_for_line("ready");
	for (i = 0; i < count; i++) {
		which = i + 1 < count ? 0 : last;
		memory_fill(&memory, 0, size, i + FIRST_HELD);
		tell(fd, (struct command){ .what = RECEIVE_IN_PLACE, .qp = which, .len = size });
		ask(which, SEND_IN_PLACE, 0, 0, size);
		await(1);
		tell(fd, (struct command){ .what = AWAIT, .len = 1 });
		tell(fd, (struct command){ .what = HOLD, .qp = which });
	}
	if (waits)
		wait_for_line("held");
	/* All others have come, and would have been put where these are if that were free. */
	while (i--) {
		tell(fd, (struct command){ .what = RETURN, .qp = i + 1 < count ? 0 : last, .at = 0 });
		wrong += sum_at(fd, false, 0, size) != sum_of_seed(size, i + FIRST_HELD);
	}
	wrong += !check_one(fd, 0, SEND_IN_PLACE, size, 2);
	printf("%lu of %lu messages right\n", count + qps + 1 - wrong, count + qps + 1);
	if (waits)
		wait_for_line("done");
	return wrong != 0;
}

/* The server has posted its receives before it was connected. */
static int early(int fd, uint32_t size, bool waits)
{
	unsigned int wrong = 0, i;

	if (waits)
		wait_for_line("ready");
	for (i = 0; i < DEPTH; i++) {
		memory_fill(&memory, 0, size, i);
		ask(0, SEND_IN_PLACE, 0, 0, size);
		await(1);
		tell(fd, (struct command){ .what = AWAIT, .len = 1 });
		tell(fd, (struct command){ .what = GATHER, .at = 0 });
		wrong += sum_at(fd, false, 0, size) != sum_of_seed(size, i);
	}
	printf("%u of %u messages right\n", DEPTH - wrong, DEPTH);
	if (waits)
		wait_for_line("done");
	return wrong != 0;
}

/* A child that outlives this process, and does nothing. */
static void leave_child(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (child > 0)
		return;
	prctl(PR_SET_NAME, "left-behind");
	for (;;)
		pause();
}

static atomic_bool opened;

/* One after the other, until all is open. */
static void *leave_children(void *unused)
{
	for (int i = 0; i < CHILDREN && !opened; i++)
		leave_child();
	return unused;
}

static void usage(void)
{
	fputs("devverbs serve -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-r] [-c] [-i BYTES] [-t TIMEOUT]\n"
	      "devverbs check|speed|hold|early -d DEVICE [-g GID] [-m MEMORY] [-p PORT] [-q QPS] [-o OPERATION]\n"
	      "  [-s BYTES] [-n BYTES] [-k N] [-w] HOST\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	enum operation operation = WRITE;
	unsigned long size = 1 << 20, total = 64 << 20, every = 1;
	int option, fd, status = 0;
	unsigned int i;
	pthread_t leaver;
	bool server, waits = false, anew = false, leaves = false;

	while ((option = getopt(argc, argv, "d:g:m:p:q:o:s:n:k:i:t:rwc")) != -1) {
		switch (option) {
		case 'd': device = optarg; break;
		case 'g': gid_index = atoi(optarg); break;
		case 'm': kind = optarg; break;
		case 'p': port = optarg; break;
		case 'q': qps = atoi(optarg); break;
		case 's': size = strtoul(optarg, NULL, 0); break;
		case 'n': total = strtoul(optarg, NULL, 0); break;
		case 'o':
			for (operation = 0; operation < OPERATIONS && strcmp(names[operation], optarg);)
				operation++;
			break;
		case 'k': every = strtoul(optarg, NULL, 0); break;
		case 'i': early_len = strtoul(optarg, NULL, 0); break;
		case 't': timeout = atoi(optarg); break;
		case 'r': anew = true; break;
		case 'w': waits = true; break;
		case 'c': leaves = true; break;
		default: usage();
		}
	}
	if (optind == argc || !device || !qps || qps > QPS_MAX || operation == OPERATIONS || !size || size > 8 << 20 ||
	    !every)
		usage();
	server = !strcmp(argv[optind], "serve");
	if (argc != optind + (server ? 1 : 2))
		usage();
	setvbuf(stdout, NULL, _IOLBF, 0);
	memory_make(&memory, kind, SIZE);
	if (leaves && pthread_create(&leaver, NULL, leave_children, NULL))
		complain("pthread_create", "fails");
	open_all();
	opened = true;
	if (leaves)
		pthread_join(leaver, NULL);
	fd = control(server ? NULL : argv[optind + 1], port);
	if (server)
		get(fd, &qps, sizeof(qps));
	else
		put(fd, &qps, sizeof(qps));
	if (qps > QPS_MAX)
		complain("the client", "wants too many QPs");
	if (server && anew) {
		close_all();
		open_all();
	}
	connect_qps(fd);
	if (leaves)
		leave_child();
	if (server)
		serve(fd);
	else if (!strcmp(argv[optind], "check"))
		status = check(fd, every, waits);
	else if (!strcmp(argv[optind], "speed"))
		speed(fd, operation, size, total, waits);
	else if (!strcmp(argv[optind], "hold"))
		status = hold(fd, size, total, waits);
	else if (!strcmp(argv[optind], "early"))
		status = early(fd, size, waits);
	else
		usage();
	if (!server)
		put(fd, &(struct command){ .what = END }, sizeof(struct command));
	for (i = 0; i < qps; i++)
		ibv_destroy_qp(qp[i]);
	close_all();
	memory_free(&memory);
	return status;
}
