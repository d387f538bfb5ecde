# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Runs rdma-core's own tests of libibverbs on a device, and says what passed as tests/c/run.sh does.

    run.py FOLDER DEVICE INTERFACE

FOLDER is rdma-core's `tests`. Left out are its modules that hold nothing about RC, or about one vendor's devices. A
test may be skipped only where it is known here why.
"""

import os
import re
import sys
import unittest
from collections import Counter

MODULES = "atomic cq cq_events cqex device fork mr odp pd qp qpex relaxed_ordering".split()

# What some tests need, and how those are called.
ABSENT = {
    "UD, UC or raw packet queue pairs": "_(ud|uc|raw)(_|$)|test_resize_cq|data_in_order|QpExTestCase.*_bad_flow",
    "XRC": "_xrc_",
    "shared receive queues": "_srq_",
    "memory windows": "MWTest|_bind_mw",
    "memory on the adapter (ibv_alloc_dm)": "DMTest|DeviceMemory",
    "IBV_WR_ATOMIC_WRITE or IBV_WR_FLUSH": "_atomic_write|_rc_flush",
    "a graphics card with a DRM driver": "DmaBuf",
    "huge pages": "_huge_",
    "an unused GID index": "query_gid_ex_bad_flow",
}


class Result(unittest.TestResult):
    """Counts by what became of a test."""

    passed = 0

    def __init__(self):
        super().__init__()
        self.absent = Counter()

    def addSuccess(self, test):
        self.passed += 1

    def addSkip(self, test, reason):
        for what, names in ABSENT.items():
            if re.search(names, test.id()):
                self.absent[what] += 1
                return
        self.errors.append((test, f"was skipped: {reason}"))


def main(folder, device, interface):
    sys.dont_write_bytecode = True
    # Last, for beside the tests lies the source of pyverbs.
    sys.path += [os.path.dirname(folder), folder]
    sys.argv[1:] = ["--dev", device]
    import args_parser
    from tests.base import RDMATestCase

    args_parser.parser.parse_args()
    # They ask `rdma link`, which asks the kernel.
    RDMATestCase.get_net_name = staticmethod(lambda dev, port=None: interface)

    result = Result()
    unittest.defaultTestLoader.loadTestsFromNames(f"tests.test_{name}" for name in MODULES).run(result)
    failed = result.failures + result.errors
    for test, why in failed:
        print(f"FAILED {test.id()}\n{why}")
    for what, tests in result.absent.items():
        print(f"skipped {tests} of rdma-core's tests: they need {what}")
    print(f"{result.passed} passed, {len(failed)} failed, {result.absent.total()} skipped", flush=True)
    # At its end Python destroys what is left in no order, and pyverbs complains.
    os._exit(1 if failed else 0)


main(*sys.argv[1:])
