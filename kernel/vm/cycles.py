#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Binds a udmabuf to queues of vhs0 again and again, and asks for what must be refused.

The argument is how many seconds may pass until it gets some payload.
"""

import copy
import errno
import os
import platform
import re
import socket
import subprocess
import sys
import time

import softaccel

sys.path.append("/src/tools/net/ynl/pyynl")
from lib import NlError, YnlFamily  # noqa: E402

CYCLES = 200
PATIENCE = int(sys.argv[1])
SIZE = 4 << 20
NETLINK_GENERIC, SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 16, 270, 10, 11


def bind(netdev, port, dmabuf, *queues, **options):
    """Gives the socket that the binding lives as long as."""
    owner = copy.copy(netdev)
    owner.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    for option in NETLINK_CAP_ACK, NETLINK_EXT_ACK:
        owner.sock.setsockopt(SOL_NETLINK, option, 1)
    wanted = [{"type": "rx", "id": queue} for queue in queues]
    try:
        owner.do("bind-rx", {"ifindex": port, "fd": dmabuf, "queues": wanted} | options)
    except NlError:
        owner.sock.close()
        raise
    return owner.sock


def bound(netdev, port):
    return {queue["id"] for queue in netdev.queue_get({"ifindex": port}, dump=True) if "dmabuf" in queue}


def refused(wanted, why, netdev, port, dmabuf, *queues, **options):
    """The kernel says `why`, or nothing but the error where that is None."""
    try:
        bind(netdev, port, dmabuf, *queues, **options)
    except NlError as error:
        print("refused:", queues, options, error)
        assert error.error == wanted, f"{errno.errorcode[error.error]} and not {errno.errorcode[wanted]}"
        assert why is None or why in str(error), f"does not say: {why}"
    else:
        raise AssertionError(f"queues {queues} were bound")


def unreadable():
    """How many bytes vhs0 has put into memory that was bound."""
    printed = subprocess.run(["ethtool", "-S", "vhs0"], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"rx_unreadable_bytes: (\d+)", printed)[1])


def main():
    port = socket.if_nametoindex("vhs0")
    dmabuf = softaccel.lent(SIZE)
    netdev, ethtool = (YnlFamily(f"/src/Documentation/netlink/specs/{name}.yaml") for name in ("netdev", "ethtool"))
    old = platform.release().startswith("6.12")
    # Headers are not split.
    if old:
        refused(errno.ENODATA, None, netdev, port, dmabuf, 1)
    else:
        refused(errno.EINVAL, "tcp-data-split is disabled", netdev, port, dmabuf, 1)
    ethtool.rings_set({"header": {"dev-index": port}, "tcp-data-split": "enabled"})
    if old:
        refused(errno.ERANGE, "rx queue index out of range", netdev, port, dmabuf, 64)
    else:
        refused(errno.EINVAL, "bad-attr", netdev, port, dmabuf, 64)
    refused(errno.EINVAL, None, netdev, port, os.open("/dev/null", os.O_RDWR), 1)
    if not old:
        for wanted, why, memory, size in (
            (errno.EINVAL, "not aligned to niov size", softaccel.lent(SIZE + 4096), 65536),  # half a buffer at the end
            (errno.EINVAL, "not aligned to niov size", dmabuf, 4 << 20),
            (errno.ERANGE, "a power of two from a page to 2 MiB", softaccel.alloc(4 << 20), 4 << 20),
            (errno.ERANGE, "integer out of range", dmabuf, 2048),
            (errno.EINVAL, "rx-page-size must be a power of 2", dmabuf, 12288),
        ):
            refused(wanted, why, netdev, port, memory, 1, **{"rx-page-size": size})
    seen = 0
    for cycle in range(CYCLES):
        queues = set(range(cycle % 4 + 1))
        # Memory of its own: the last one's may be in use for a second more, by packets that nobody has read.
        lent = softaccel.lent(SIZE)
        owner = bind(netdev, port, lent, *queues)
        os.close(lent)
        assert bound(netdev, port) == queues
        if cycle % 20 == 0:
            refused(errno.EEXIST, "already memory provider bound", netdev, port, dmabuf, 0)
            # Here at the latest its memory gets something.
            before, end = seen, time.monotonic() + PATIENCE
            while (seen := unreadable()) == before:
                assert time.monotonic() < end, "no traffic"
            print("cycle", cycle, seen - before, "bytes more")
        owner.close()
    assert not bound(netdev, port)
    print(CYCLES, "cycles")


if __name__ == "__main__":
    main()
