/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Many queue pairs with large writes, more than would be sent at the same time.
 * Those whose peer has stopped are in nobody's way, whether the program polls
 * for completions, sleeps until one comes, or does neither; once the peer goes
 * on, theirs come too.
 */
#include "rig.h"

/* Ends that are never connected; those of the process that is stopped, and of the other. */
enum { IDLE = 256, STOPPED = 33, GOING = 32, SIZE = 1 << 20 };

static struct end idle[IDLE], stopped[STOPPED], going[GOING];
static struct ibv_comp_channel *channel;

static struct setup sharing(void)
{
	struct setup setup = usual;

	/* No deadline lets anybody look. */
	setup.timeout = 0;
	setup.memory = SIZE;
	channel = ibv_create_comp_channel(device);
	need(channel);
	setup.send_cq = ibv_create_cq(device, STOPPED + GOING, NULL, channel, 0);
	setup.recv_cq = ibv_create_cq(device, 1, NULL, NULL, 0);
	need(setup.send_cq && setup.recv_cq);
	return setup;
}

static void join_all(struct end *ends, int n, const struct process *other, const struct setup *setup)
{
	for (int i = 0; i < n; i++)
		ends[i] = end_join(other, setup);
}

static void drop_all(struct end *ends, int n)
{
	for (int i = 0; i < n; i++)
		end_drop(&ends[i]);
}

static void close_all(const struct setup *setup)
{
	need(ibv_destroy_cq(setup->send_cq) == 0 && ibv_destroy_cq(setup->recv_cq) == 0);
	need(ibv_destroy_comp_channel(channel) == 0);
	rig_close();
}

enum { POLLS, SLEEPS, NEITHER, ROUNDS };

static bool comes(const struct end *end, uint32_t seed)
{
	uint64_t start = now_ms();

	while (!filled(end->buf, SIZE, seed))
		if (now_ms() - start > 10000)
			return false;
	return true;
}

/* A peer: is asked in each round whether the data has come, and waits for it. */
static void serve(const struct process *parent, struct end *ends, int n)
{
	struct setup setup;

	rig_open(0, NULL);
	setup = sharing();
	join_all(ends, n, parent, &setup);
	for (int round = 0; round < ROUNDS; round++) {
		bool right = true;

		meet(parent);
		for (int i = 0; i < n; i++)
			right = right && comes(&ends[i], round * n + i);
		tell(parent->fd, &right, sizeof(right));
	}
	meet(parent);
	drop_all(ends, n);
	close_all(&setup);
}

static void fill_all(struct end *ends, int n, int round)
{
	for (int i = 0; i < n; i++)
		fill(ends[i].buf, SIZE, round * n + i);
}

static void write_all(struct end *ends, int n)
{
	for (int i = 0; i < n; i++)
		ask(&ends[i], (struct ask){ .id = n, .op = IBV_WR_RDMA_WRITE, .len = SIZE });
}

static struct ibv_wc sleep_one(struct ibv_cq *cq)
{
	struct ibv_wc wc;
	struct ibv_cq *from;
	void *context;

	while (ibv_poll_cq(cq, 1, &wc) == 0) {
		need(ibv_req_notify_cq(cq, 0) == 0);
		if (ibv_poll_cq(cq, 1, &wc) == 1)
			break;
		need(ibv_get_cq_event(channel, &from, &context) == 0 && from == cq);
		ibv_ack_cq_events(cq, 1);
	}
	return wc;
}

/* The next n completions are successes of requests with this number. */
static bool completed(struct ibv_cq *cq, struct ibv_wc (*next)(struct ibv_cq *), int n, uint64_t id)
{
	bool good = true;

	for (int i = 0; i < n; i++) {
		struct ibv_wc wc = next(cq);

		good = good && wc.status == IBV_WC_SUCCESS && wc.wr_id == id;
	}
	return good;
}

static bool is_right(const struct process *peer)
{
	bool right;

	meet(peer);
	hear(peer->fd, &right, sizeof(right));
	return right;
}

int main(int argc, char **argv)
{
	struct process sleeper = fork_peer(), runner;
	struct setup setup;

	if (sleeper.child == 0) {
		serve(&sleeper, stopped, STOPPED);
		return 0;
	}
	runner = fork_peer();
	if (runner.child == 0) {
		serve(&runner, going, GOING);
		return 0;
	}
	rig_open(argc, argv);
	setup = sharing();
	for (int i = 0; i < IDLE; i++)
		idle[i] = end_make(&setup);
	join_all(stopped, STOPPED, &sleeper, &setup);
	join_all(going, GOING, &runner, &setup);
	for (int round = 0; round < ROUNDS; round++) {
		struct ibv_wc (*next)(struct ibv_cq *) = round == SLEEPS ? sleep_one : poll_one;

		say("%s", (const char *[]){ "polls", "sleeps", "neither" }[round]);
		fill_all(stopped, STOPPED, round);
		fill_all(going, GOING, round);
		stop_peer(&sleeper);
		write_all(stopped, STOPPED);
		write_all(going, GOING);
		if (round == NEITHER)
			yes("the data of the others comes", is_right(&runner));
		yes("the others complete", completed(setup.send_cq, next, GOING, GOING));
		if (round != NEITHER)
			yes("the data of the others is right", is_right(&runner));
		continue_peer(&sleeper);
		yes("then those complete", completed(setup.send_cq, next, STOPPED, STOPPED));
		yes("their data is right", is_right(&sleeper));
	}
	meet(&sleeper);
	meet(&runner);
	join(&sleeper);
	join(&runner);
	drop_all(idle, IDLE);
	drop_all(stopped, STOPPED);
	drop_all(going, GOING);
	close_all(&setup);
	return 0;
}
