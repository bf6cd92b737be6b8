"""The filter as bytes, run by a small BPF interpreter, for both architectures on any machine."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from edgekit.privacy.architecture import AARCH64, X86_64, Architecture
from edgekit.privacy.program import REFUSED, build

ALLOW, EACCES = 0x7FFF0000, 0x00050000 | 13
I386, ARM = 0x40000003, 0x40000028  # AUDIT_ARCH_ of the 32-bit halves, linux/audit.h
BOTH = pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)

# What a chat lives on. x86_64 from asm/unistd_64.h, aarch64 from asm-generic/unistd.h.
HARMLESS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "mmap": (9, 222), "mprotect": (10, 226),
    "rt_sigaction": (13, 134), "clone": (56, 220), "execve": (59, 221), "wait4": (61, 260),
    "kill": (62, 129), "fcntl": (72, 25), "fsync": (74, 82), "openat": (257, 56),
    "futex": (202, 98), "pipe2": (293, 59), "memfd_create": (319, 279), "recvfrom": (45, 207),
    "shutdown": (48, 210), "getsockopt": (55, 209), "epoll_ctl": (233, 21), "clone3": (435, 435),
    "unshare": (272, 97), "seccomp": (317, 277), "landlock_restrict_self": (446, 446),
}  # fmt: skip
ARGUMENT_RULES = {"socketpair": (53, 199), "sendto": (44, 206), "ioctl": (16, 29)}
EXPECTED_REFUSALS = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendmsg": (46, 211),
    "bind": (49, 200), "listen": (50, 201), "ptrace": (101, 117), "mount": (165, 40),
    "init_module": (175, 105), "kexec_load": (246, 104), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "accept4": (288, 242),
    "perf_event_open": (298, 241), "sendmmsg": (307, 269), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "finit_module": (313, 273), "kexec_file_load": (320, 294),
    "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "fsopen": (430, 430),
    "pidfd_getfd": (438, 438),
}  # fmt: skip


def verdict(
    machine: Architecture, number: int, *arguments: int, audit_id: int | None = None
) -> int:
    """Run the filter on one system call, as Documentation/networking/filter.rst says."""
    code = build(machine)
    lines = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack(
        "<IIQ6Q", number & 0xFFFFFFFF, machine.audit_id if audit_id is None else audit_id, 0,
        *(value & (1 << 64) - 1 for value in padded),
    )  # fmt: skip
    accumulator, at = 0, 0
    while True:
        opcode, if_true, if_false, operand = lines[at]
        at += 1
        match opcode:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                assert operand % 4 == 0
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= operand
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += if_true if accumulator == operand else if_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                at += if_true if accumulator >= operand else if_false
            case 0x45:  # BPF_JMP | BPF_JSET | BPF_K
                at += if_true if accumulator & operand else if_false
            case 0x06:  # BPF_RET | BPF_K
                return operand
            case unknown:
                raise AssertionError(f"opcode {unknown:#x}")


def number_on(machine: Architecture, pair: tuple[int, int]) -> int:
    return pair[0] if machine is X86_64 else pair[1]


def test_the_list_of_refusals_is_the_expected_one() -> None:
    assert set(REFUSED) == set(EXPECTED_REFUSALS)


@BOTH
def test_refused_calls_are_refused_whatever_their_arguments(machine: Architecture) -> None:
    for name, pair in EXPECTED_REFUSALS.items():
        for arguments in ((), (1, 1, 1, 1, 1, 1), (2**64 - 1,) * 6):
            assert verdict(machine, number_on(machine, pair), *arguments) == EACCES, name


@BOTH
def test_every_other_number_passes(machine: Architecture) -> None:
    judged = {number_on(machine, pair) for pair in (EXPECTED_REFUSALS | ARGUMENT_RULES).values()}
    for number in range(600):
        if number not in judged:
            assert verdict(machine, number, *(2**64 - 1,) * 6) == ALLOW, number
    for name, pair in HARMLESS.items():
        assert verdict(machine, number_on(machine, pair)) == ALLOW, name


@BOTH
def test_pairs_of_sockets_are_local_streams(machine: Architecture) -> None:
    number = number_on(machine, ARGUMENT_RULES["socketpair"])
    flags = 0o2004000  # SOCK_CLOEXEC | SOCK_NONBLOCK
    for kind in (1, 5, 1 | flags, 5 | flags):
        assert verdict(machine, number, 1, kind) == ALLOW
        assert verdict(machine, number, 1 | 7 << 32, kind | 9 << 32) == ALLOW  # the kernel's view
    for family, kind in ((1, 2), (1, 3), (1, 2 | flags), (2, 1), (10, 1), (16, 3), (40, 1), (0, 1)):
        assert verdict(machine, number, family, kind) == EACCES
        assert verdict(machine, number, family | 1 << 32, kind) == EACCES


@BOTH
def test_what_is_sent_has_no_address(machine: Architecture) -> None:
    number = number_on(machine, ARGUMENT_RULES["sendto"])
    assert verdict(machine, number, 3, 0x7000, 1, 0, 0, 0) == ALLOW
    assert verdict(machine, number, 3, 0x7000, 1, 0x4000, 0, 0) == ALLOW  # MSG_NOSIGNAL
    assert verdict(machine, number, 3, 0x7000, 1, 0, 0x7FFF_0000_1000, 16) == EACCES
    assert verdict(machine, number, 3, 0x7000, 1, 0, 0x7FFF_0000_0000, 16) == EACCES
    assert verdict(machine, number, 3, 0x7000, 1, 0, 1, 0) == EACCES
    assert verdict(machine, number, 3, 0x7000, 1, 0x20004000, 0, 0) == EACCES  # MSG_FASTOPEN


@BOTH
def test_nothing_types_into_the_terminal(machine: Architecture) -> None:
    number = number_on(machine, ARGUMENT_RULES["ioctl"])
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32, 0x541C | 0xFFFF << 32):
        assert verdict(machine, number, 0, request) == EACCES
    for request in (0x5401, 0x5402, 0x5413, 0x541B):  # TCGETS, TCSETS, TIOCGWINSZ, FIONREAD
        assert verdict(machine, number, 0, request) == ALLOW


@pytest.mark.parametrize(
    ("machine", "audit_id"), [(X86_64, I386), (AARCH64, ARM), (X86_64, AARCH64.audit_id)]
)
def test_calls_of_another_architecture_are_refused(machine: Architecture, audit_id: int) -> None:
    for number in (0, 1, 20, 102, 359, 41):
        assert verdict(machine, number, audit_id=audit_id) == EACCES


def test_x32_numbers_are_refused() -> None:
    for number in (0, 41, 42, 44, 425):
        assert verdict(X86_64, number | 0x40000000) == EACCES
    assert verdict(X86_64, -1) == EACCES


@BOTH
def test_the_kernel_would_take_the_program(machine: Architecture) -> None:
    code = build(machine)
    length = len(code) // 8
    assert length < 4096
    for at in range(length):
        opcode, if_true, if_false, _ = struct.unpack_from("<HBBI", code, at * 8)
        if opcode & 7 == 5:
            assert max(at + 1 + if_true, at + 1 + if_false) < length
    assert struct.unpack_from("<H", code, len(code) - 8)[0] == 0x06


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        (X86_64, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        (AARCH64, "/usr/include/asm-generic/unistd.h"),
    ],
    ids=["x86_64", "aarch64"],
)
def test_the_numbers_are_those_of_the_kernel_headers(machine: Architecture, header: str) -> None:
    if not Path(header).is_file():
        pytest.skip(f"{header} is not installed")
    text = Path(header).read_text()
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    for name, number in machine.numbers.items():
        assert int(numbers[name]) == number, name
