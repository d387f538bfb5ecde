// SPDX-License-Identifier: GPL-2.0
/*
 * One stream of bytes by TCP, from and to memory of a choice: plain memory,
 * a udmabuf, or the soft accelerator's.
 *
 *   devmem receive -i IFNAME -a ADDRESS [-m MEMORY] [-p PORT] [-q FIRST:COUNT]
 *                  [-b BYTES] [-z]
 *   devmem send    -i IFNAME -a ADDRESS [-m MEMORY] [-p PORT] [-n BYTES]
 *
 * The receiver binds its memory to the queues, in buffers of 4096 or -b bytes,
 * or with -z registers it for io_uring's zero-copy receive from the first one;
 * steering the stream there is left to the caller. What arrives is copied to a
 * second buffer, by the accelerator's engine if it is the accelerator's. Each
 * end prints one line of what it has seen, in bytes: the two must agree on
 * "crc", the CRC-32C of the stream; "device" arrived in the bound memory,
 * "linear" beside it in packets that were split, "host" in packets that were
 * not. "seconds" go from the first byte to the end, and "cpu" is how long all
 * processors were busy meanwhile.
 */

#define _GNU_SOURCE

#include "devmem.h"

#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <linux/dma-buf.h>
#include <linux/errqueue.h>
#include <linux/udmabuf.h>
#include <ynl.h>

#include "netdev-user.h"

#define SOURCE_SIZE	(16UL << 20)	/* what is sent, over and over */
#define SEND_SIZE	(256UL << 10)	/* one call */

const char *ifname;
unsigned int first_queue = 1;
unsigned long buffer_size;
static const char *address, *port = "5201", *kind = "udmabuf";
static unsigned int queue_count = 1;
static unsigned long stream_size = 64UL << 20;
static bool by_zcrx;

void die(const char *what)
{
	fprintf(stderr, "devmem: %s: %s\n", what, strerror(errno));
	exit(1);
}

void complain(const char *what, const char *why)
{
	fprintf(stderr, "devmem: %s: %s\n", what, why);
	exit(1);
}

static __u32 crc32c(__u32 crc, const unsigned char *from, size_t len)
{
	static __u32 table[256];
	unsigned int i, bit;

	if (!table[1]) {
		for (i = 0; i < 256; i++) {
			table[i] = i;
			for (bit = 0; bit < 8; bit++)
				table[i] = table[i] >> 1 ^
					   (table[i] & 1 ? 0x82f63b78 : 0);
		}
	}
	while (len--)
		crc = table[(crc ^ *from++) & 0xff] ^ crc >> 8;
	return crc;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Seconds that all processors were busy; proc_stat(5). */
static double busy(void)
{
	unsigned long user, nice, system, idle, iowait, irq, softirq, steal;
	FILE *stat = fopen("/proc/stat", "r");

	if (!stat || fscanf(stat, "cpu %lu %lu %lu %lu %lu %lu %lu %lu", &user,
			    &nice, &system, &idle, &iowait, &irq, &softirq,
			    &steal) != 8)
		die("/proc/stat");
	fclose(stat);
	return (double)(user + nice + system + irq + softirq + steal) /
	       sysconf(_SC_CLK_TCK);
}

struct memory host_memory(size_t size)
{
	struct memory memory = { .dmabuf = -1, .accel = -1 };

	memory.va = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory.va == MAP_FAILED)
		die("mmap");
	return memory;
}

static struct memory udmabuf_memory(size_t size)
{
	struct memory memory = { .accel = -1 };
	struct udmabuf_create create = { .size = size };
	int memfd, device;

	memfd = memfd_create("devmem", MFD_ALLOW_SEALING | MFD_HUGETLB);
	if (memfd < 0 || ftruncate(memfd, size))
		die("memfd_create");
	if (fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		die("F_ADD_SEALS");
	device = open("/dev/udmabuf", O_RDWR);
	if (device < 0)
		die("/dev/udmabuf");
	create.memfd = memfd;
	memory.dmabuf = ioctl(device, UDMABUF_CREATE, &create);
	if (memory.dmabuf < 0)
		die("UDMABUF_CREATE");
	memory.va = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 memory.dmabuf, 0);
	if (memory.va == MAP_FAILED)
		die("mmap");
	close(device);
	close(memfd);
	return memory;
}

static struct memory accel_memory(size_t size)
{
	struct softaccel_alloc alloc = { .size = size };
	struct memory memory = { };

	memory.accel = open("/dev/softaccel0", O_RDWR | O_CLOEXEC);
	if (memory.accel < 0)
		die("/dev/softaccel0");
	if (ioctl(memory.accel, SOFTACCEL_ALLOC, &alloc))
		die("SOFTACCEL_ALLOC");
	memory.dmabuf = alloc.fd;
	return memory;
}

/* What can be bound, if anything can. */
static struct memory bound_memory(size_t size)
{
	if (!strcmp(kind, "host"))
		return host_memory(size);
	if (!strcmp(kind, "udmabuf"))
		return udmabuf_memory(size);
	if (!strcmp(kind, "softaccel"))
		return accel_memory(size);
	complain(kind, "not host, udmabuf or softaccel");
	abort();
}

/* Where the stream ends: on the accelerator if it came there. */
static struct memory target_memory(size_t size)
{
	return strcmp(kind, "softaccel") ? host_memory(size) :
					   accel_memory(size);
}

/* The processor's access begins or ends. */
static void synchronize(struct memory *memory, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	if (memory && memory->dmabuf >= 0 &&
	    ioctl(memory->dmabuf, DMA_BUF_IOCTL_SYNC, &sync))
		die("DMA_BUF_IOCTL_SYNC");
}

/* From @from, or from plain memory if that is NULL. */
void copy(struct memory *to, struct memory *from,
	  const struct softaccel_segment *segments, unsigned int count)
{
	struct softaccel_copy job = {
		.segments = (__u64)segments,
		.count = count,
		.src_fd = from ? from->dmabuf : SOFTACCEL_HOST,
		.dst_fd = to->dmabuf,
		.event_fd = -1,
	};
	unsigned int i;

	if (!count)
		return;
	if (to->accel >= 0) {
		if (ioctl(to->accel, SOFTACCEL_COPY, &job))
			die("SOFTACCEL_COPY");
		return;
	}
	synchronize(from, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_START);
	synchronize(to, DMA_BUF_SYNC_WRITE | DMA_BUF_SYNC_START);
	for (i = 0; i < count; i++)
		memcpy(to->va + segments[i].dst,
		       (from ? from->va : NULL) + segments[i].src,
		       segments[i].len);
	synchronize(to, DMA_BUF_SYNC_WRITE | DMA_BUF_SYNC_END);
	synchronize(from, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END);
}

static __u32 checksum(struct memory *memory, size_t len)
{
	struct softaccel_sum sum = { .len = len, .fd = memory->dmabuf };

	if (memory->accel < 0)
		return ~crc32c(~0, memory->va, len);
	if (ioctl(memory->accel, SOFTACCEL_SUM, &sum))
		die("SOFTACCEL_SUM");
	return sum.crc;
}

static struct ynl_sock *netdev_family(void)
{
	struct ynl_error error;
	struct ynl_sock *ys;

	ys = ynl_sock_create(&ynl_netdev_family, &error);
	if (!ys)
		complain("netlink", error.msg);
	return ys;
}

/* The binding lives as long as the socket, the socket as long as we do. */
static void bind_rx(int dmabuf)
{
	struct ynl_sock *ys = netdev_family();
	struct netdev_bind_rx_req *req = netdev_bind_rx_req_alloc();
	struct netdev_queue_id *queues;
	struct netdev_bind_rx_rsp *rsp;
	unsigned int i;

	queues = netdev_queue_id_alloc(queue_count);
	for (i = 0; i < queue_count; i++) {
		netdev_queue_id_set_type(&queues[i], NETDEV_QUEUE_TYPE_RX);
		netdev_queue_id_set_id(&queues[i], first_queue + i);
	}
	netdev_bind_rx_req_set_ifindex(req, if_nametoindex(ifname));
	netdev_bind_rx_req_set_fd(req, dmabuf);
	__netdev_bind_rx_req_set_queues(req, queues, queue_count);
	if (buffer_size)
		netdev_bind_rx_req_set_rx_page_size(req, buffer_size);
	rsp = netdev_bind_rx(ys, req);
	if (!rsp)
		complain("bind-rx", ys->err.msg);
	netdev_bind_rx_rsp_free(rsp);
	netdev_bind_rx_req_free(req);
}

static __u32 bind_tx(int dmabuf)
{
	struct ynl_sock *ys = netdev_family();
	struct netdev_bind_tx_req *req = netdev_bind_tx_req_alloc();
	struct netdev_bind_tx_rsp *rsp;
	__u32 id;

	netdev_bind_tx_req_set_ifindex(req, if_nametoindex(ifname));
	netdev_bind_tx_req_set_fd(req, dmabuf);
	rsp = netdev_bind_tx(ys, req);
	if (!rsp)
		complain("bind-tx", ys->err.msg);
	id = rsp->id;
	netdev_bind_tx_rsp_free(rsp);
	netdev_bind_tx_req_free(req);
	return id;
}

static int stream_socket(struct addrinfo **found)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	int err, fd, one = 1;

	err = getaddrinfo(address, port, &hints, found);
	if (err)
		complain(address, gai_strerror(err));
	fd = socket((*found)->ai_family, SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, ifname,
		       strlen(ifname)))
		die("setsockopt");
	return fd;
}

static int accepted(void)
{
	struct addrinfo *found;
	int listener, fd;

	listener = stream_socket(&found);
	if (bind(listener, found->ai_addr, found->ai_addrlen) ||
	    listen(listener, 1))
		die("listen");
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		die("accept");
	close(listener);
	return fd;
}

unsigned long total(const struct received *received)
{
	return received->device + received->linear + received->host;
}

static void return_tokens(int fd, struct received *received)
{
	if (received->tokens &&
	    setsockopt(fd, SOL_SOCKET, SO_DEVMEM_DONTNEED, received->token,
		       received->tokens * sizeof(*received->token)) < 0)
		die("SO_DEVMEM_DONTNEED");
	received->tokens = 0;
}

static void add_token(int fd, struct received *received, __u32 token)
{
	if (received->tokens == TOKENS)
		return_tokens(fd, received);
	received->token[received->tokens].token_start = token;
	received->token[received->tokens++].token_count = 1;
}

static void to_target(struct memory *target, struct received *received,
		      void *from, size_t len)
{
	struct softaccel_segment segment = {
		.src = (__u64)from, .dst = total(received), .len = len,
	};

	if (total(received) + len > STREAM_MAX)
		complain("stream", "too long");
	copy(target, NULL, &segment, 1);
}

/* What recvmsg() has put into @msg, in the order of the stream. */
static void take(struct msghdr *msg, size_t len, struct memory *target,
		 struct received *received)
{
	unsigned char *linear = msg->msg_iov->iov_base;
	bool split = false;
	struct cmsghdr *cm;

	received->frags = 0;
	for (cm = CMSG_FIRSTHDR(msg); cm; cm = CMSG_NXTHDR(msg, cm)) {
		struct dmabuf_cmsg frag;

		if (cm->cmsg_level != SOL_SOCKET ||
		    (cm->cmsg_type != SCM_DEVMEM_DMABUF &&
		     cm->cmsg_type != SCM_DEVMEM_LINEAR))
			continue;
		split = true;
		memcpy(&frag, CMSG_DATA(cm), sizeof(frag));
		if (cm->cmsg_type == SCM_DEVMEM_LINEAR) {
			to_target(target, received, linear, frag.frag_size);
			linear += frag.frag_size;
			received->linear += frag.frag_size;
			continue;
		}
		if (total(received) + frag.frag_size > STREAM_MAX)
			complain("stream", "too long");
		received->segments[received->frags++] =
			(struct softaccel_segment) {
				.src = frag.frag_offset,
				.dst = total(received),
				.len = frag.frag_size,
			};
		received->device += frag.frag_size;
	}
	if (!split) {
		to_target(target, received, linear, len);
		received->host += len;
	}
}

static void give_back(int fd, struct msghdr *msg, struct received *received)
{
	struct cmsghdr *cm;

	for (cm = CMSG_FIRSTHDR(msg); cm; cm = CMSG_NXTHDR(msg, cm)) {
		struct dmabuf_cmsg frag;

		if (cm->cmsg_level != SOL_SOCKET ||
		    cm->cmsg_type != SCM_DEVMEM_DMABUF)
			continue;
		memcpy(&frag, CMSG_DATA(cm), sizeof(frag));
		add_token(fd, received, frag.frag_token);
	}
	return_tokens(fd, received);
}

void begin(struct received *received)
{
	if (received->start)
		return;
	received->start = now();
	received->busy_before = busy();
}

bool receive_msg(int fd, int flags, struct memory *pool, struct memory *target,
		 struct received *received)
{
	static char control[FRAGS * CMSG_SPACE(sizeof(struct dmabuf_cmsg))];
	static char plain[512 << 10];
	struct iovec iov = { plain, sizeof(plain) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t len = recvmsg(fd, &msg, MSG_SOCK_DEVMEM | flags);

	if (len < 0)
		die("recvmsg");
	if (!len)
		return false;
	begin(received);
	take(&msg, len, target, received);
	copy(target, pool, received->segments, received->frags);
	give_back(fd, &msg, received);
	return true;
}

static void receive(void)
{
	static struct received received;
	struct memory target = target_memory(STREAM_MAX);
	struct memory pool = bound_memory(POOL_SIZE);
	int fd;

	if (by_zcrx)
		open_zcrx(pool.dmabuf);
	else if (pool.dmabuf >= 0)
		bind_rx(pool.dmabuf);
	fd = accepted();
	if (by_zcrx)
		receive_zcrx(fd, &pool, &target, &received);
	else
		while (receive_msg(fd, 0, &pool, &target, &received))
			;
	printf("bytes=%lu device=%lu linear=%lu host=%lu ", total(&received),
	       received.device, received.linear, received.host);
	printf("seconds=%.3f cpu=%.2f ", now() - received.start,
	       busy() - received.busy_before);
	printf("crc=%08x\n", checksum(&target, total(&received)));
}

/* Takes notices of memory that is free again; true if there were some. */
static bool take_notices(int fd, __u32 *done)
{
	char control[CMSG_SPACE(sizeof(struct sock_extended_err)) + 64];
	struct msghdr msg = {
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct sock_extended_err error;
	struct cmsghdr *cm;

	if (recvmsg(fd, &msg, MSG_ERRQUEUE) < 0) {
		if (errno != EAGAIN)
			die("MSG_ERRQUEUE");
		return false;
	}
	cm = CMSG_FIRSTHDR(&msg);
	if (!cm)
		complain("MSG_ERRQUEUE", "no notice");
	memcpy(&error, CMSG_DATA(cm), sizeof(error));
	if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY || error.ee_errno)
		complain("MSG_ERRQUEUE", strerror(error.ee_errno));
	*done += error.ee_data - error.ee_info + 1;
	return true;
}

static void wait_for(int fd, short events)
{
	struct pollfd poller = { .fd = fd, .events = events };

	if (poll(&poller, 1, 30000) < 0)
		die("poll");
	if (!poller.revents)
		complain("send", "nothing moved for 30 s");
}

static ssize_t send_some(int fd, const struct memory *source, __u32 id,
			 unsigned long sent)
{
	char control[CMSG_SPACE(sizeof(id))] = { };
	unsigned long at = sent % SOURCE_SIZE;
	struct msghdr msg = { .msg_iovlen = 1 };
	struct cmsghdr *cm;
	struct iovec iov;

	iov.iov_base = source->dmabuf < 0 ? source->va + at : (void *)at;
	iov.iov_len = SEND_SIZE;
	if (iov.iov_len > SOURCE_SIZE - at)
		iov.iov_len = SOURCE_SIZE - at;
	if (iov.iov_len > stream_size - sent)
		iov.iov_len = stream_size - sent;
	msg.msg_iov = &iov;
	if (source->dmabuf < 0)
		return sendmsg(fd, &msg, MSG_DONTWAIT);
	msg.msg_control = control;
	msg.msg_controllen = sizeof(control);
	cm = CMSG_FIRSTHDR(&msg);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_DEVMEM_DMABUF;
	cm->cmsg_len = CMSG_LEN(sizeof(id));
	memcpy(CMSG_DATA(cm), &id, sizeof(id));
	return sendmsg(fd, &msg, MSG_ZEROCOPY | MSG_DONTWAIT);
}

/* What is sent; the same again after SOURCE_SIZE bytes. */
static __u32 fill(struct memory *source)
{
	struct memory made = host_memory(SOURCE_SIZE);
	struct softaccel_segment all = {
		.src = (__u64)made.va, .len = SOURCE_SIZE,
	};
	__u32 *word = (__u32 *)made.va, x = 2463534242, crc = ~0;
	unsigned long left;
	size_t i, n;

	for (i = 0; i < SOURCE_SIZE / sizeof(*word); i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		word[i] = x;
	}
	copy(source, NULL, &all, 1);
	for (left = stream_size; left; left -= n) {
		n = left < SOURCE_SIZE ? left : SOURCE_SIZE;
		crc = crc32c(crc, made.va, n);
	}
	munmap(made.va, SOURCE_SIZE);
	return ~crc;
}

static void transmit(void)
{
	struct memory source = bound_memory(SOURCE_SIZE);
	bool zerocopy = source.dmabuf >= 0;
	__u32 crc = fill(&source), id = 0, calls = 0, done = 0;
	unsigned long sent = 0;
	struct addrinfo *found;
	int fd, one = 1;

	if (zerocopy)
		id = bind_tx(source.dmabuf);
	fd = stream_socket(&found);
	if (zerocopy &&
	    setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
		die("SO_ZEROCOPY");
	if (connect(fd, found->ai_addr, found->ai_addrlen))
		die("connect");
	while (sent < stream_size) {
		ssize_t len = send_some(fd, &source, id, sent);
		/* ENOBUFS: too many notices are still to come. */
		short events = errno == ENOBUFS ? 0 : POLLOUT;

		if (len >= 0) {
			sent += len;
			calls++;
		} else if (errno != EAGAIN && errno != ENOBUFS) {
			die("sendmsg");
		} else if (!take_notices(fd, &done)) {
			wait_for(fd, events);
		}
	}
	if (shutdown(fd, SHUT_WR))
		die("shutdown");
	while (zerocopy && done != calls)
		if (!take_notices(fd, &done))
			wait_for(fd, 0);
	printf("bytes=%lu calls=%u crc=%08x\n", sent, calls, crc);
}

static unsigned long parse(const char *text, char **end)
{
	unsigned long value;

	errno = 0;
	value = strtoul(text, end, 0);
	if (errno || *end == text)
		complain(text, "not a number");
	return value;
}

static void usage(void)
{
	fputs("devmem send|receive -i IFNAME -a ADDRESS\n"
	      "  [-m host|udmabuf|softaccel] [-p PORT] [-n BYTES]\n"
	      "  [-q FIRST:COUNT] [-b BYTES] [-z]\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	char *end;
	int c;

	while ((c = getopt(argc, argv, "i:a:m:p:q:n:b:z")) != -1) {
		switch (c) {
		case 'i':
			ifname = optarg;
			break;
		case 'a':
			address = optarg;
			break;
		case 'm':
			kind = optarg;
			break;
		case 'p':
			port = optarg;
			break;
		case 'q':
			first_queue = parse(optarg, &end);
			if (*end++ != ':')
				usage();
			queue_count = parse(end, &end);
			break;
		case 'b':
			buffer_size = parse(optarg, &end);
			break;
		case 'z':
			by_zcrx = true;
			break;
		case 'n':
			stream_size = parse(optarg, &end);
			if (!stream_size || stream_size > STREAM_MAX)
				complain(optarg, "not 1 to 268435456");
			break;
		default:
			usage();
		}
	}
	if (argc != optind + 1 || !ifname || !address)
		usage();
	if (!if_nametoindex(ifname))
		die(ifname);
	if (!strcmp(argv[optind], "receive"))
		receive();
	else if (!strcmp(argv[optind], "send"))
		transmit();
	else
		usage();
	return 0;
}
