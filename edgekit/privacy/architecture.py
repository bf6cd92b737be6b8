"""System call numbers, per processor architecture. Facts only: what is done with them is not here.

From arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h, which arm64 uses.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

# The bit that marks x32 calls: the same kernel functions under other numbers.
X32_BIT = 0x40000000

_NUMBERS = {
    # name: (x86_64, aarch64)
    "accept": (43, 202),
    "accept4": (288, 242),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "connect": (42, 203),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listen": (50, 201),
    "mount": (165, 40),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "userfaultfd": (323, 282),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A 64-bit little-endian Linux.

    `audit_id` is the AUDIT_ARCH_ constant by which the kernel names it to a filter; `has_x32`
    says that a second set of numbers exists; `numbers` maps system calls to their numbers.
    """

    name: str
    audit_id: int
    has_x32: bool
    numbers: dict[str, int]


X86_64 = Architecture("x86_64", 0xC000003E, True, {n: pair[0] for n, pair in _NUMBERS.items()})
AARCH64 = Architecture("aarch64", 0xC00000B7, False, {n: pair[1] for n, pair in _NUMBERS.items()})
KNOWN = {"x86_64": X86_64, "aarch64": AARCH64}


def of_this_process() -> Architecture | None:
    """Return this process's architecture, or None if it has no table here.

    A 32-bit process on a 64-bit kernel has other numbers than the machine's name says.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    return KNOWN.get(os.uname().machine)
