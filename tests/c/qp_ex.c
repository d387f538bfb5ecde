/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ibv_wr_start() and so on: every operation and setter, batches, giving up, errors; see ibv_wr_post(3). */
#include "rig.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

static struct end a, b;
static struct ibv_qp_ex *qpx;

static void begin(uint64_t id, unsigned int flags)
{
	ibv_wr_start(qpx);
	qpx->wr_id = id;
	qpx->wr_flags = flags;
}

static void finish(const char *what)
{
	outcome(what, ibv_wr_complete(qpx));
}

static void data(size_t at, size_t len)
{
	ibv_wr_set_sge(qpx, a.mr->lkey, (uintptr_t)a.buf + at, len);
}

static void operations(void)
{
	uint64_t word = 7;

	fill(a.buf, 4096, 1);
	post_recv(&b, 11, 0, 64);
	begin(1, IBV_SEND_SIGNALED);
	ibv_wr_send(qpx);
	data(0, 64);
	finish("send");
	show_next("  sent", a.send_cq);
	show_next("  received", b.recv_cq);

	post_recv(&b, 12, 0, 64);
	begin(2, IBV_SEND_SIGNALED | IBV_SEND_SOLICITED);
	ibv_wr_send_imm(qpx, htonl(55));
	data(0, 64);
	finish("send with immediate data");
	show_next("  sent", a.send_cq);
	struct ibv_wc wc = poll_one(b.recv_cq);
	show("  received", &wc);
	yes("  the value is right", ntohl(wc.imm_data) == 55);

	begin(3, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr + 1000);
	data(0, 2000);
	finish("write");
	show_next("  sent", a.send_cq);
	yes("  the data is there", filled(b.buf + 1000, 2000, 1));

	post_recv(&b, 13, 0, 0);
	begin(4, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write_imm(qpx, b.mr->rkey, b.self.addr + 5000, htonl(66));
	data(0, 100);
	finish("write with immediate data");
	show_next("  sent", a.send_cq);
	wc = poll_one(b.recv_cq);
	show("  received", &wc);
	yes("  the value is right", ntohl(wc.imm_data) == 66);

	begin(5, IBV_SEND_SIGNALED);
	ibv_wr_rdma_read(qpx, b.mr->rkey, b.self.addr + 1000);
	data(20000, 2000);
	finish("read");
	show_next("  done", a.send_cq);
	yes("  the data is there", filled(a.buf + 20000, 2000, 1));

	memcpy(b.buf, &word, sizeof(word));
	begin(6, IBV_SEND_SIGNALED);
	ibv_wr_atomic_cmp_swp(qpx, b.mr->rkey, b.self.addr, 7, 9);
	data(30000, 8);
	finish("compare and swap");
	show_next("  done", a.send_cq);
	begin(7, IBV_SEND_SIGNALED);
	ibv_wr_atomic_fetch_add(qpx, b.mr->rkey, b.self.addr, 4);
	data(30000, 8);
	finish("fetch and add");
	show_next("  done", a.send_cq);
	memcpy(&word, b.buf, sizeof(word));
	yes("  7 became 9 became 13", word == 13 && a.buf[30000] == 9);
}

static void setters(void)
{
	struct ibv_sge list[3] = { sge(&a, 0, 10), sge(&a, 100, 20), sge(&a, 200, 30) };
	uint8_t local[100], wanted[60];
	struct ibv_data_buf bufs[2] = { { local, 40 }, { local + 50, 20 } };

	fill(a.buf, 4096, 2);
	memcpy(wanted, a.buf, 10);
	memcpy(wanted + 10, a.buf + 100, 20);
	memcpy(wanted + 30, a.buf + 200, 30);
	memset(b.buf, 0, 4096);
	begin(8, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_sge_list(qpx, 3, list);
	finish("a list");
	show_next("  sent", a.send_cq);
	yes("  the data is there", memcmp(b.buf, wanted, 60) == 0);

	fill(local, sizeof(local), 3);
	memcpy(wanted, local, 40);
	memcpy(wanted + 40, local + 50, 20);
	begin(9, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_inline_data_list(qpx, 2, bufs);
	/* The memory is the program's again as soon as the setter returns. */
	memset(local, 0, sizeof(local));
	finish("inline data from a list");
	show_next("  sent", a.send_cq);
	yes("  the data is there", memcmp(b.buf, wanted, 60) == 0);

	fill(local, sizeof(local), 4);
	post_recv(&b, 14, 0, 100);
	begin(10, IBV_SEND_SIGNALED);
	ibv_wr_send(qpx);
	ibv_wr_set_inline_data(qpx, local, 100);
	memset(local, 0, sizeof(local));
	finish("inline data");
	show_next("  sent", a.send_cq);
	show_next("  received", b.recv_cq);
	yes("  the data is there", filled(b.buf, 100, 4));

	post_recv(&b, 15, 0, 100);
	begin(11, IBV_SEND_SIGNALED);
	ibv_wr_send(qpx);
	ibv_wr_set_sge_list(qpx, 0, NULL);
	finish("an empty list");
	show_next("  sent", a.send_cq);
	show_next("  received", b.recv_cq);
}

static void batch(void)
{
	bool right = true;

	fill(a.buf, 4096, 5);
	memset(b.buf, 0, 4096);
	ibv_wr_start(qpx);
	for (uint64_t i = 0; i < 32; i++) {
		qpx->wr_id = i;
		qpx->wr_flags = i % 4 == 3 ? IBV_SEND_SIGNALED : 0;
		ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr + 128 * i);
		data(128 * i, 128);
	}
	yes("nothing is sent before the batch is complete", quiet(a.send_cq, 50) && all(b.buf, 4096, 0));
	finish("a batch of 32 writes");
	for (uint64_t i = 3; i < 32; i += 4)
		right = right && expect(a.send_cq, i).opcode == IBV_WC_RDMA_WRITE;
	yes("  the signaled ones complete in order", right && quiet(a.send_cq, 10));
	yes("  the data is there", filled(b.buf, 4096, 5));
	ibv_wr_start(qpx);
	finish("an empty batch");
}

static void given_up(void)
{
	memset(b.buf, 0, 64);
	begin(40, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	data(0, 64);
	ibv_wr_abort(qpx);
	yes("what was aborted is not sent", quiet(a.send_cq, 50) && all(b.buf, 64, 0));
	begin(41, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	data(0, 64);
	finish("and the next batch is");
	show_next("  sent", a.send_cq);
}

/* An error in a batch shows when it is to be completed, and none of it is posted. */
static void wrong(void)
{
	static struct ibv_sge list[1024];
	static uint8_t local[1 << 20];
	/* Nothing can be read behind it. */
	uint8_t *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ibv_data_buf *last = (struct ibv_data_buf *)(pages + 4096) - 1;

	need(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
	*last = (struct ibv_data_buf){ local, sizeof(local) };
	for (size_t i = 0; i < COUNT(list); i++)
		list[i] = sge(&a, 0, 1);
	memset(b.buf, 0, 64);

	begin(50, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	data(0, 64);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_sge_list(qpx, COUNT(list), list);
	yes("a list that is too long", ibv_wr_complete(qpx) != 0);
	yes("  nothing is sent", quiet(a.send_cq, 50) && all(b.buf, 64, 0));

	begin(56, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_sge_list(qpx, (size_t)1 << 36, list);
	ibv_wr_set_sge_list(qpx, SIZE_MAX, list);
	yes("a list without an end", ibv_wr_complete(qpx) != 0);

	begin(51, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_inline_data(qpx, local, sizeof(local));
	yes("inline data that is too long", ibv_wr_complete(qpx) != 0);
	yes("  nothing is sent", quiet(a.send_cq, 50));

	begin(53, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_inline_data(qpx, local, SIZE_MAX);
	yes("inline data without an end", ibv_wr_complete(qpx) != 0);
	begin(57, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_inline_data_list(qpx, SIZE_MAX, last);
	yes("a list of it without an end", ibv_wr_complete(qpx) != 0);
	begin(54, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_inline_data(qpx, NULL, 8);
	yes("inline data at NULL", ibv_wr_complete(qpx) != 0);
	begin(55, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	ibv_wr_set_inline_data_list(qpx, 2, NULL);
	yes("a list of it at NULL", ibv_wr_complete(qpx) != 0);
	yes("  nothing is sent", quiet(a.send_cq, 50));

	ibv_wr_start(qpx);
	for (int i = 0; i < 5000; i++) {
		qpx->wr_id = i;
		qpx->wr_flags = IBV_SEND_SIGNALED;
		ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
		data(0, 8);
	}
	outcome("more requests than the queue holds", ibv_wr_complete(qpx));
	yes("  nothing is sent", quiet(a.send_cq, 50) && all(b.buf, 64, 0));

	begin(52, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	data(0, 64);
	finish("and the next batch");
	show_next("  sent", a.send_cq);
}

static void mixed(void)
{
	ask(&a, (struct ask){ .id = 60, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	begin(61, IBV_SEND_SIGNALED);
	ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
	data(0, 8);
	need(ibv_wr_complete(qpx) == 0);
	ask(&a, (struct ask){ .id = 62, .op = IBV_WR_RDMA_WRITE, .len = 8 });
	for (uint64_t id = 60; id <= 62; id++)
		expect(a.send_cq, id);
	say("ibv_post_send in between keeps the order");
}

static void *writer(void *first)
{
	for (uint64_t i = 0; i < 500; i++) {
		int error;

		/* A critical section: nobody else's request comes between these. */
		do {
			ibv_wr_start(qpx);
			for (uint64_t j = 0; j < 4; j++) {
				qpx->wr_id = (uintptr_t)first + i * 4 + j;
				qpx->wr_flags = IBV_SEND_SIGNALED;
				ibv_wr_rdma_write(qpx, b.mr->rkey, b.self.addr);
				data(0, 8);
			}
			error = ibv_wr_complete(qpx);
		} while (error == ENOMEM);
		need(error == 0);
	}
	return NULL;
}

static void threads(void)
{
	uint64_t next[2] = { 0, 10000 };
	pthread_t thread[2];
	bool right = true;

	for (uintptr_t i = 0; i < 2; i++)
		need(pthread_create(&thread[i], NULL, writer, (void *)(i * 10000)) == 0);
	for (int i = 0; i < 2 * 500; i++) {
		struct ibv_wc first = poll_one(a.send_cq);
		uint64_t *mine = &next[first.wr_id >= 10000];

		right = right && first.wr_id == *mine && first.status == IBV_WC_SUCCESS;
		for (uint64_t j = 1; j < 4; j++)
			right = right && poll_one(a.send_cq).wr_id == *mine + j;
		*mine += 4;
	}
	for (int i = 0; i < 2; i++)
		need(pthread_join(thread[i], NULL) == 0);
	yes("the batches of two threads stay whole", right);
}

int main(int argc, char **argv)
{
	struct setup setup = usual;

	rig_open(argc, argv);
	setup.extended = true;
	pair_make(&a, &b, &setup);
	qpx = ibv_qp_to_qp_ex(a.qp);
	need(qpx);
	operations();
	setters();
	batch();
	given_up();
	wrong();
	mixed();
	threads();
	yes("nothing else completed", quiet(a.send_cq, 10) && quiet(b.recv_cq, 0));
	pair_drop(&a, &b);
	rig_close();
	return 0;
}
