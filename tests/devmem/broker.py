#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Clients of `dmverbs broker` that are not dmverbs: what they get, and what not; provider/netdev/src/broker.rs."""

import errno
import os
import re
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, "/workspace/kernel/vm")
import softaccel  # noqa: E402

PATH = f"/run/dmverbs/broker-{os.stat('/proc/self/ns/net').st_ino}.sock"
NIC = "vhs0"


def connect():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(20)
    connection.connect(PATH)
    return connection


def ask(connection, ifname, *descriptors, port=0):
    request = b"dmverbs\x02" + struct.pack("<IH", socket.if_nametoindex(ifname), port)
    socket.send_fds(connection, [request], [descriptor.fileno() for descriptor in descriptors])
    try:
        answer = connection.recv(512)
    except ConnectionResetError:  # before the last words of one that has closed without taking all that was sent
        answer = connection.recv(512)
    (errno,) = struct.unpack_from("<i", answer)
    return answer[4:].decode() if errno else struct.unpack("<II", answer[4:])


def unbound(family=socket.AF_INET6, ifname=NIC):
    tcp = socket.socket(family)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode())
    return tcp


def in_use(tcp, port):
    try:
        tcp.bind(("", port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def rules():
    shown = subprocess.run(["ethtool", "-n", NIC], check=True, capture_output=True, text=True).stdout
    return int(shown.split("Total ")[1].split()[0])


def await_rules(count):
    end = time.monotonic() + 1
    while rules() != count:
        assert time.monotonic() < end, f"{rules()} rules after a second"


def ended(connection):
    try:
        return connection.recv(512) == b""
    except ConnectionResetError:
        return True


def test_rules_are_for_what_is_listened_to(memory):
    for family, count in (socket.AF_INET, 1), (socket.AF_INET6, 2):
        with connect() as connection, unbound(family) as tcp:
            queue, _ = ask(connection, NIC, memory, tcp, port=18777)
            assert queue > 0
            assert rules() == count
            assert tcp.getsockname()[1] == 18777
            with socket.socket(family) as other, unbound(family) as another:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                assert in_use(other, 18777)
                with connect() as again:
                    why = ask(again, NIC, memory, another, port=18777)
                    assert why == "cannot have TCP port 18777: Address already in use (os error 98)", why
        await_rules(0)


def test_a_connection_is_for_one_queue(memory):
    with connect() as connection, unbound() as tcp:
        ask(connection, NIC, memory, tcp)
        why = ask(connection, NIC, memory, tcp)
        assert why == "a connection is for one queue", why
        assert ended(connection)
        await_rules(0)


def test_a_port_that_is_let_go_is_not_steered(memory):
    with connect() as connection, unbound() as tcp:
        ask(connection, NIC, memory, tcp)
        tcp.shutdown(socket.SHUT_RDWR)
        assert ended(connection)
        await_rules(0)
    with connect() as connection, unbound() as tcp:
        ask(connection, NIC, memory, tcp)
        tcp.close()
        assert rules() == 2, "the broker keeps the port"


def test_refusals(memory):
    others = [
        (NIC, memory, socket.create_server(("", 0)), "the second descriptor is not bound to the interface"),
        (NIC, memory, unbound(ifname="lo"), "the second descriptor is not bound to the interface"),
        ("lo", memory, unbound(ifname="lo"), "cannot read the rings of lo: Operation not supported (os error 95)"),
    ]
    for ifname, first, second, wanted in others:
        with connect() as connection:
            why = ask(connection, ifname, first, second)
            assert why == wanted, why
            assert ended(connection)
        first is memory or first.close()
        second.close()
    await_rules(0)


def test_what_is_no_dma_buf_is_not_bound(_):
    wanted = rf"cannot bind a dma-buf to RX queues \[\d+\] of {NIC}: Invalid argument \(os error 22\)"
    for first in open("/dev/softaccel0"), unbound():
        with connect() as connection, first, unbound() as second:
            why = ask(connection, NIC, first, second)
            assert re.fullmatch(wanted, why), why
            assert ended(connection)


def test_a_request_comes_with_two_descriptors(memory):
    with connect() as connection, unbound() as tcp:
        why = ask(connection, NIC, memory, *[tcp] * 9)
        assert why == "a request comes with two descriptors", why
        assert ended(connection)


def test_silence(_):
    with connect() as connection:
        assert connection.recv(512)[4:] == b"no request has come"


def main():
    with os.fdopen(softaccel.alloc(4 << 20), "rb", buffering=0) as memory:
        for name, test in list(globals().items()):
            if name.startswith("test_"):
                await_rules(0)
                test(memory)
                print("ok", name)


if __name__ == "__main__":
    main()
