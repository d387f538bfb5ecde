#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Asks the accelerator for what it can do, and for what it must refuse; include/uapi/softaccel.h."""

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import select
import signal
import struct
import subprocess
import time

HOST = -1
PAGE = 4096
UDMABUF_CREATE = 0x40187542
RATE = "/sys/module/softaccel/parameters/rate"


def request(direction, number, layout):
    return direction << 30 | struct.calcsize(layout) << 16 | 0xD5 << 8 | number


INFO, ALLOC, COPY, SUM = "=6Q", "=QiI", "=QIiii", "=QQiI"
WRITE, READ = 1, 2
ACCEL = os.open("/dev/softaccel0", os.O_RDWR)


def call(direction, number, layout, *fields):
    packed = bytearray(struct.pack(layout, *fields))
    fcntl.ioctl(ACCEL, request(direction, number, layout), packed)
    return struct.unpack(layout, packed)


def info():
    names = ("size", "free", "copies", "copied_bytes", "sums", "summed_bytes")
    return dict(zip(names, call(READ, 0, INFO, *[0] * 6)))


def alloc(size, reserved=0):
    return call(READ | WRITE, 1, ALLOC, size, -1, reserved)[1]


def copy(src, dst, *segments, event=-1, count=None):
    array = b"".join(struct.pack("=3Q", *segment) for segment in segments)
    memory = ctypes.create_string_buffer(array, len(array) or 1)
    count = len(segments) if count is None else count
    return call(WRITE, 2, COPY, ctypes.addressof(memory), count, src, dst, event)


def crc(fd, offset, length):
    return call(READ | WRITE, 3, SUM, offset, length, fd, 0)[3]


def lent(size):
    """Memory of another device's: a udmabuf."""
    memory = os.memfd_create("lent", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, size)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with open("/dev/udmabuf", "r+b", buffering=0) as lender:
        fd = fcntl.ioctl(lender, UDMABUF_CREATE, bytearray(struct.pack("=IIQQ", memory, 0, 0, size)))
    os.close(memory)
    return fd


def put(fd, at, data):
    memory = ctypes.create_string_buffer(data, len(data))
    copy(HOST, fd, (ctypes.addressof(memory), at, len(data)))


def get(fd, at, length):
    memory = ctypes.create_string_buffer(length)
    copy(fd, HOST, (at, ctypes.addressof(memory), length))
    return memory.raw


@functools.cache
def log():
    """The kernel's, which not every user of this file may read."""
    return os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)


def logged():
    """What the kernel has logged since this was last asked."""
    lines = []
    while True:
        try:
            lines.append(os.read(log(), 8192).decode())
        except BlockingIOError:
            return "".join(lines)


@contextlib.contextmanager
def refused(wanted, why=None):
    logged()
    try:
        yield
    except OSError as error:
        assert error.errno == wanted, f"{errno.errorcode[error.errno]} and not {errno.errorcode[wanted]}"
    else:
        raise AssertionError(f"not refused with {errno.errorcode[wanted]}")
    if why is not None:
        assert f"softaccel0: {why}\n" in logged(), f"the log does not say: {why}"


def test_allocation():
    size = info()["size"]
    for bad in 0, 1, PAGE - 1, PAGE + 1:
        with refused(errno.EINVAL, f"{bad} bytes are not a multiple of {PAGE}"):
            alloc(bad)
    with refused(errno.EINVAL, "reserved must be 0"):
        alloc(PAGE, reserved=1)
    for large in size + PAGE, 1 << 63:
        with refused(errno.ENOMEM, f"no room for {large} bytes in {size}"):
            alloc(large)
    assert info()["free"] == size
    everything = alloc(size)
    assert info()["free"] == 0
    with refused(errno.ENOMEM, f"no room for {PAGE} bytes, 0 are free"):
        alloc(PAGE)
    put(everything, size - 3, b"end")
    os.close(everything)
    again = alloc(size)
    assert get(again, size - 3, 3) == bytes(3), "the last owner's bytes are there"
    os.close(again)
    assert info()["free"] == size


def test_no_mapping():
    fd = alloc(PAGE)
    with refused(errno.EINVAL):
        mmap.mmap(fd, PAGE)
    os.close(fd)


def test_copies():
    a, b = alloc(4 << 20), alloc(4 << 20)
    data = os.urandom(3 << 20)
    before = info()
    put(a, 7, data)
    copy(a, b, (7, 1001, 1 << 20), (7 + (1 << 20), 1001 + (1 << 20), 2 << 20))
    assert get(b, 1001, len(data)) == data
    after = info()
    assert after["copies"] - before["copies"] == 4
    assert after["copied_bytes"] - before["copied_bytes"] == 3 * len(data)
    for to in 3, 11, 100_000:  # as memmove(3)
        put(a, 7, data)
        copy(a, a, (7, to, len(data)))
        assert get(a, to, len(data)) == data
    os.close(a)
    os.close(b)


def test_refused_copies():
    fd, other = alloc(PAGE), os.open("/dev/null", os.O_RDWR)
    put(fd, 0, b"kept")
    for outside, at in (
        ((1, 0, PAGE), 1),
        ((0, 1, PAGE), 1),
        ((PAGE + 1, 0, 0), PAGE + 1),
        ((0, 0, 1 << 63), 0),
        (((1 << 64) - 1, 0, 2), (1 << 64) - 1),
    ):
        with refused(errno.EINVAL, f"{outside[2]} bytes at {at} are not inside {PAGE}"):
            copy(fd, fd, (100, 0, 4), outside)
    assert get(fd, 0, 4) == b"kept", "something was copied before the checks"
    with refused(errno.EINVAL, "a copy without a dma-buf"):
        copy(HOST, HOST, (0, 0, 1))
    for bad in (other, fd), (fd, other):
        with refused(errno.EINVAL, f"descriptor {other} is no dma-buf"):
            copy(*bad, (0, 0, 1))
    for bad in (-2, fd), (fd, 999):
        with refused(errno.EBADF, f"descriptor {min(bad) if min(bad) < 0 else 999} is no dma-buf"):
            copy(*bad, (0, 0, 1))
    udmabuf = lent(PAGE)
    with refused(errno.EINVAL, f"dma-buf {udmabuf} is another device's"):
        copy(fd, udmabuf, (0, 0, 1))
    with refused(errno.EINVAL, "0 segments, eventfd -1"):
        copy(fd, fd)
    with refused(errno.E2BIG, "4097 segments, 4096 at most"):
        copy(fd, fd, (0, 0, 1), count=4097)
    with refused(errno.EFAULT):
        copy(HOST, fd, (0, 0, 1))
    with refused(errno.EFAULT):
        call(WRITE, 2, COPY, 0, 1, fd, fd, -1)
    with refused(errno.EINVAL, "1 segments, eventfd -2"):
        copy(fd, fd, (0, 0, 1), event=-2)
    with refused(errno.EINVAL, f"descriptor {other} is no eventfd"):
        copy(fd, fd, (0, 0, 1), event=other)
    event = os.eventfd(0)
    with refused(errno.EINVAL, "an eventfd, and no dma-buf at one end"):
        copy(HOST, fd, (0, 0, 1), event=event)
    with refused(errno.ENOTTY, "no call 9 with 48 bytes"):
        fcntl.ioctl(ACCEL, request(READ, 9, INFO), bytearray(48))
    with refused(errno.ENOTTY, "no call 0 with 40 bytes"):  # a structure of another size
        fcntl.ioctl(ACCEL, request(READ, 0, "=5Q"), bytearray(48))
    with refused(errno.ENOTTY):  # as isatty(3) asks
        fcntl.ioctl(ACCEL, 0x5401, bytearray(64))
    assert "softaccel" not in logged()
    for open_fd in fd, other, udmabuf, event:
        os.close(open_fd)


def test_asynchronous_copies():
    a, event = alloc(8 << 20), os.eventfd(0, os.EFD_NONBLOCK)
    put(a, 0, b"one")
    copy(a, a, (0, 4 << 20, 3), event=event)
    copy(a, a, (4 << 20, 5, 3), event=event)
    done = 0
    while done < 2:
        assert select.select([event], [], [], 20)[0], "no notice"
        done += os.eventfd_read(event)
    assert get(a, 5, 3) == b"one"
    # The buffer outlives its descriptor for as long as a copy lasts.
    copy(a, a, (0, 4 << 20, 4 << 20), event=event)
    os.close(a)
    assert select.select([event], [], [], 20)[0]
    os.close(event)


def test_copies_that_wait():
    fd, event = alloc(8 << 20), os.eventfd(0, os.EFD_NONBLOCK)
    with open(RATE, "w") as limit:
        limit.write("1")
    copy(fd, fd, (0, 4 << 20, 4 << 20), event=event)
    for _ in range(15):
        copy(fd, fd, *[(0, 0, 0)] * 4096, event=event)
    with refused(errno.EAGAIN, "4096 segments more than may wait"):
        copy(fd, fd, *[(0, 0, 0)] * 4096, event=event)
    copy(fd, fd, *[(0, 0, 0)] * 4095, event=event)
    with open(RATE, "w") as limit:
        limit.write("0")
    done = 0
    while done < 17:
        assert select.select([event], [], [], 20)[0], f"{done} of 17"
        done += os.eventfd_read(event)
    for _ in range(16):
        copy(fd, fd, *[(0, 0, 0)] * 4096, event=event)
    while done < 33:
        assert select.select([event], [], [], 20)[0], f"{done} of 33"
        done += os.eventfd_read(event)
    os.close(fd)
    os.close(event)


def test_sums():
    fd = alloc(2 << 20)
    put(fd, 13, b"123456789")
    assert crc(fd, 13, 9) == 0xE3069283  # RFC 3720's polynomial; the usual check value
    assert crc(fd, 13, 0) == 0
    put(fd, 64, bytes(32))
    assert crc(fd, 64, 32) == 0x8A9136AA  # RFC 3720, B.4
    put(fd, (1 << 20) - 16, b"\xff" * 32)
    assert crc(fd, (1 << 20) - 16, 32) == 0x62A8AB43  # across a step of the engine
    with refused(errno.EINVAL, f"{2 << 20} bytes at 1 are not inside {2 << 20}"):
        crc(fd, 1, 2 << 20)
    with refused(errno.EINVAL, "sums are of dma-bufs"):
        crc(HOST, 0, 1)
    with refused(errno.EBADF, "descriptor 999 is no dma-buf"):
        crc(999, 0, 1)
    os.close(fd)


def test_rate():
    fd = alloc(8 << 20)
    with open(RATE, "w") as limit:
        limit.write("20")
    start = time.monotonic()
    copy(fd, fd, (0, 4 << 20, 4 << 20))
    took = time.monotonic() - start
    with open(RATE, "w") as limit:
        limit.write("0")
    os.close(fd)
    assert took >= (4 << 20) / 20e6, f"4 MiB at 20 MB/s in {took:.3f} s"


def test_interrupted_copies():
    """What is complete has succeeded; else a signal ends it where it waits for the rate."""
    fd = alloc(8 << 20)
    signal.signal(signal.SIGALRM, lambda *_: None)
    with open(RATE, "w") as limit:
        limit.write("4")
    for sizes, wanted, copies in ([1 << 20], True, 1), ([2 << 20], False, 0), ([1 << 20] * 2, False, 1):
        before = info()["copies"]
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            copy(fd, fd, *((0, 4 << 20, size) for size in sizes))
            done = True
        except InterruptedError:
            done = False
        assert done == wanted and info()["copies"] - before == copies, f"{sizes}: {done}"
    with open(RATE, "w") as limit:
        limit.write("0")
    os.close(fd)


def main():
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok", name)
    assert info()["free"] == info()["size"]
    held = alloc(PAGE)
    os.close(ACCEL)
    assert subprocess.run(["rmmod", "softaccel"]).returncode, "its module was unloaded under a buffer"
    os.close(held)


if __name__ == "__main__":
    main()
