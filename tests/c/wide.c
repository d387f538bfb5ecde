/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* 64 queue pairs between two processes, all at work at once. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>

#define QPS 64
#define ROUNDS 20

static struct end ends[QPS];
static struct ibv_cq *send_cq, *recv_cq;

static void connect_all(const struct process *other)
{
	struct setup setup = usual;
	struct address peers[QPS];

	send_cq = ibv_create_cq(device, 4096, NULL, NULL, 0);
	recv_cq = ibv_create_cq(device, 4096, NULL, NULL, 0);
	need(send_cq && recv_cq);
	setup.send_cq = send_cq;
	setup.recv_cq = recv_cq;
	setup.cap.max_send_sge = setup.cap.max_recv_sge = 1;
	for (int i = 0; i < QPS; i++) {
		ends[i] = end_make(&setup);
		tell(other->fd, &ends[i].self, sizeof(ends[i].self));
	}
	for (int i = 0; i < QPS; i++)
		hear(other->fd, &peers[i], sizeof(peers[i]));
	/* The last first: the order in which they get ready must not matter. */
	for (int i = 0; i < QPS; i++) {
		int n = other->child ? i : QPS - 1 - i;

		end_connect(&ends[n], &peers[n]);
	}
}

/* Sends on each, and gets what the other process sends on each. */
static bool exchange(const struct process *other, uint32_t round)
{
	uint32_t mine = round + (other->child ? 0 : 100), theirs = round + (other->child ? 100 : 0);
	int sent = 0, received = 0;
	bool right = true;

	for (int i = 0; i < QPS; i++)
		post_recv(&ends[i], i, 16384, 4096);
	for (int i = 0; i < QPS; i++) {
		fill(ends[i].buf, 4096, mine + i);
		ask(&ends[i], (struct ask){ .id = i, .op = IBV_WR_SEND, .len = 4096 });
	}
	while (sent < QPS || received < QPS) {
		struct ibv_wc wc = poll_one(received < QPS ? recv_cq : send_cq);

		right = right && wc.status == IBV_WC_SUCCESS && wc.qp_num == ends[wc.wr_id].qp->qp_num;
		if (wc.opcode & IBV_WC_RECV) {
			right = right && filled(ends[wc.wr_id].buf + 16384, 4096, theirs + wc.wr_id);
			received++;
		} else {
			sent++;
		}
	}
	meet(other);
	return right;
}

int main(int argc, char **argv)
{
	struct process other = fork_peer();
	bool right = true, theirs;

	rig_open(argc, argv);
	connect_all(&other);
	if (other.child)
		say("64 queue pairs are connected");
	for (uint32_t round = 0; round < ROUNDS; round++)
		right = exchange(&other, round) && right;
	tell(other.fd, &right, sizeof(right));
	hear(other.fd, &theirs, sizeof(theirs));
	if (other.child)
		yes("20 messages on each, both ways, arrive", right && theirs);
	meet(&other);
	for (int i = 0; i < QPS; i++)
		end_drop(&ends[i]);
	need(ibv_destroy_cq(send_cq) == 0 && ibv_destroy_cq(recv_cq) == 0);
	rig_close();
	if (other.child)
		join(&other);
	return 0;
}
