#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Lets the n-th allocation of a system call fail, for each n that it has (/proc/thread-self/fail-nth)."""

import ctypes
import errno
import fcntl
import os
import socket
import struct

import softaccel

DRIVER = "/sys/bus/platform/drivers/vhs/"
SIOCETHTOOL, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8946, 0x8913, 0x8914
ETHTOOL_GRINGPARAM, ETHTOOL_SRINGPARAM = 0x10, 0x11
ETHTOOL_GCHANNELS, ETHTOOL_SCHANNELS = 0x3C, 0x3D
IFF_UP = 1
# The last is device_add()'s, for a device whose name could not be had: platform_device_add() does not look.
REFUSALS = errno.ENOMEM, errno.ENOBUFS, errno.EINVAL


def each_fails(what, call, undo):
    """`undo` gets what `call` gave, when that succeeds in spite of the fault, and at the end."""
    nth, refused = 0, 0
    fails = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
    while True:
        nth += 1
        os.pwrite(fails, b"%d" % nth, 0)
        try:
            got = call()
        except OSError as error:
            got = error
        left = int(os.pread(fails, 16, 0))
        os.pwrite(fails, b"0", 0)
        if isinstance(got, OSError):
            assert got.errno in REFUSALS, f"{what}, {nth}: {got}"
            refused += 1
        else:
            undo(got)
        if left:
            break
    os.close(fails)
    print(f"{what}: {nth - 1} allocations failed in turn, and {refused} calls for it")
    assert not isinstance(got, OSError) and refused > 0


def interface(control, request, name, argument):
    """An ioctl of netdevice(7)."""
    asked = bytearray(struct.pack("16s24s", name.encode(), argument))
    fcntl.ioctl(control, request, asked)
    return asked


def flags(control, name, up):
    was = struct.unpack_from("=h", interface(control, SIOCGIFFLAGS, name, b""), 16)[0]
    interface(control, SIOCSIFFLAGS, name, struct.pack("=h", was | IFF_UP if up else was & ~IFF_UP))


def ring(control, name, size):
    asked = ctypes.create_string_buffer(struct.pack("=9I", ETHTOOL_GRINGPARAM, *[0] * 8))
    where = struct.pack("=Q", ctypes.addressof(asked))
    interface(control, SIOCETHTOOL, name, where)
    now = list(struct.unpack_from("=9I", asked.raw))
    now[0], now[5] = ETHTOOL_SRINGPARAM, size
    struct.pack_into("=9I", asked, 0, *now)
    interface(control, SIOCETHTOOL, name, where)


def size(control, name):
    asked = ctypes.create_string_buffer(struct.pack("=9I", ETHTOOL_GRINGPARAM, *[0] * 8))
    interface(control, SIOCETHTOOL, name, struct.pack("=Q", ctypes.addressof(asked)))
    return struct.unpack_from("=9I", asked.raw)[5]


def channels(control, name, count=None):
    """Combined ones; all there are, if they are not to change."""
    asked = ctypes.create_string_buffer(struct.pack("=9I", ETHTOOL_GCHANNELS, *[0] * 8))
    where = struct.pack("=Q", ctypes.addressof(asked))
    interface(control, SIOCETHTOOL, name, where)
    if count is not None:
        struct.pack_into("=I", asked, 0, ETHTOOL_SCHANNELS)
        struct.pack_into("=I", asked, 32, count)
        interface(control, SIOCETHTOOL, name, where)
    return struct.unpack_from("=9I", asked.raw)[8]


def carrier(name):
    with open(f"/sys/class/net/{name}/carrier") as file:
        return file.read() == "1\n"


def main():
    new, gone = (os.open(DRIVER + name, os.O_WRONLY) for name in ("new_pair", "del_pair"))
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    each_fails("a pair is made", lambda: os.pwrite(new, b"1", 0), lambda _: os.pwrite(gone, b"0", 0))
    assert not os.path.exists("/sys/class/net/vhs0")

    os.pwrite(new, b"1", 0)
    each_fails("a port is opened", lambda: flags(control, "vhs0", True), lambda _: flags(control, "vhs0", False))
    flags(control, "vhs0", True)
    flags(control, "vhs1", True)

    def grown(_):
        assert size(control, "vhs0") == 512
        ring(control, "vhs0", 1024)

    each_fails("its rings are resized", lambda: ring(control, "vhs0", 512), grown)
    assert size(control, "vhs0") == 1024

    def narrowed(_):
        assert channels(control, "vhs0") == 1
        channels(control, "vhs0", 2)

    def narrow():
        try:
            channels(control, "vhs0", 1)
        except OSError:
            assert channels(control, "vhs0") == 2 and carrier("vhs0"), "it does not run as before"
            raise

    each_fails("its channels become fewer", narrow, narrowed)
    os.pwrite(gone, b"0", 0)

    free = softaccel.info()["free"]
    each_fails("memory of the accelerator", lambda: softaccel.alloc(1 << 20), os.close)
    a, b = softaccel.alloc(1 << 20), softaccel.alloc(1 << 20)
    each_fails("a copy", lambda: softaccel.copy(a, b, (0, 0, 1 << 20)), lambda _: None)
    os.close(a)
    os.close(b)
    assert softaccel.info()["free"] == free


if __name__ == "__main__":
    main()
