# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Connects to the port of a lane without being anybody's peer, and sends what the kernel takes:

    strangers.py ADDRESS PORT COUNT

Says "sent" when all have; ends when all have been closed, and says how many seconds after the first connection that was.
"""

import select
import socket
import sys
import time

address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start = time.monotonic()
poll = select.poll()
sockets = {}
sent = 0
for _ in range(count):
    stranger = socket.create_connection((address, port))
    stranger.setblocking(False)
    sockets[stranger.fileno()] = stranger
    poll.register(stranger, select.POLLIN)
for stranger in sockets.values():
    try:
        while True:
            sent += stranger.send(bytes(1 << 16))
    except OSError:  # It takes no more, or is closed already.
        pass
print(f"sent {sent} bytes", flush=True)
while sockets:
    events = poll.poll(60_000)
    assert events, f"{len(sockets)} connections are still open"
    for fd, _ in events:
        poll.unregister(fd)
        sockets.pop(fd).close()
print(f"{count} strangers were closed after {time.monotonic() - start:.0f} s")
