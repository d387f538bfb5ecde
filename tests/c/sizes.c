/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Messages of 1 byte to 8 MiB between two processes, each checked on arrival. */
#include "rig.h"

#include <string.h>

#define LARGEST (8u << 20)

static const size_t odd[] = { 3, 100, 1000, 4095, 4097, 65535, 65537, 262143, 262145, 1000003, 3333333 };

static struct setup big(void)
{
	struct setup setup = usual;

	setup.memory = LARGEST;
	return setup;
}

/* The sizes: powers of two, then odd ones; 0 behind the last. */
static size_t size(size_t i)
{
	if (i <= 23)
		return (size_t)1 << i;
	return i - 24 < COUNT(odd) ? odd[i - 24] : 0;
}

static void check(const struct process *other, const struct end *end, size_t len, uint32_t seed)
{
	bool right = filled(end->buf, len, seed);

	tell(other->fd, &right, sizeof(right));
}

static bool checked(const struct process *other)
{
	bool right;

	hear(other->fd, &right, sizeof(right));
	return right;
}

static void serve(const struct process *parent)
{
	struct setup setup = big();
	struct end b;

	rig_open(0, NULL);
	b = end_join(parent, &setup);
	for (size_t i = 0; size(i); i++) {
		/* Each kind of message comes into memory that holds something else. */
		memset(b.buf, 0xee, size(i));
		post_recv(&b, i, 0, size(i));
		meet(parent);
		need(expect(b.recv_cq, i).byte_len == size(i));
		check(parent, &b, size(i), 1000 + i);

		memset(b.buf, 0xee, size(i));
		meet(parent);
		meet(parent);
		check(parent, &b, size(i), 2000 + i);

		fill(b.buf, size(i), 3000 + i);
		meet(parent);
		meet(parent);
	}
	end_drop(&b);
	rig_close();
}

int main(int argc, char **argv)
{
	struct process child = fork_peer();
	struct setup setup = big();
	bool sent = true, written = true, read = true;
	struct end a;

	if (child.child == 0) {
		serve(&child);
		return 0;
	}
	rig_open(argc, argv);
	a = end_join(&child, &setup);
	for (size_t i = 0; size(i); i++) {
		fill(a.buf, size(i), 1000 + i);
		meet(&child);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_SEND, .len = size(i) });
		expect(a.send_cq, i);
		sent = checked(&child) && sent;

		fill(a.buf, size(i), 2000 + i);
		meet(&child);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_WRITE, .len = size(i) });
		expect(a.send_cq, i);
		meet(&child);
		written = checked(&child) && written;

		memset(a.buf, 0xee, size(i));
		meet(&child);
		ask(&a, (struct ask){ .id = i, .op = IBV_WR_RDMA_READ, .len = size(i) });
		read = expect(a.send_cq, i).byte_len == size(i) && filled(a.buf, size(i), 3000 + i) && read;
		meet(&child);
	}
	yes("sends of 1 byte to 8 MiB arrive", sent);
	yes("writes of 1 byte to 8 MiB arrive", written);
	yes("reads of 1 byte to 8 MiB arrive", read);
	end_drop(&a);
	rig_close();
	join(&child);
	return 0;
}
