"""The rules of the lock as a classic BPF program, which the kernel runs at every system call.

Pure: builds bytes for an architecture and installs nothing. Struct layouts and opcodes are those
of linux/filter.h and linux/seccomp.h.
"""

from __future__ import annotations

import errno
import struct

from edgekit.privacy.architecture import X32_BIT, Architecture

# Refused whatever the arguments. Sockets of every family, AF_UNIX too: a daemon of this machine
# may have a network of its own.
REFUSED = (
    "socket", "connect", "bind", "listen", "accept", "accept4",
    "sendmsg", "sendmmsg",  # their address lies in memory, where a filter cannot look
    "io_uring_setup", "io_uring_enter", "io_uring_register",  # does all of these unseen
    "pidfd_getfd", "ptrace", "process_vm_readv", "process_vm_writev",  # another process's sockets
    "bpf", "perf_event_open", "userfaultfd",  # tools of those who attack kernels
    "add_key", "request_key", "keyctl",  # a key of type dns_resolver makes the kernel ask the DNS
    "mount", "fsopen",  # a network file system
    "init_module", "finit_module", "kexec_load", "kexec_file_load",  # another kernel
)  # fmt: skip

SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
REFUSAL = SECCOMP_RET_ERRNO | errno.EACCES

AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET, SOCK_TYPE_MASK = 1, 1, 5, 0xF
MSG_FASTOPEN = 0x20000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

# BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_{JEQ,JGE,JSET}|BPF_K, BPF_ALU|BPF_AND|BPF_K, BPF_RET|BPF_K
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
# Offsets in struct seccomp_data, little-endian.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16

NEXT = ""
Line = tuple[int, int, str, str] | str
"""An instruction (opcode, operand, where to go if true, if false), or a label for the next one."""


def build(architecture: Architecture) -> bytes:
    """Return the filter for `architecture`: an array of struct sock_filter."""
    return assemble(_lines(architecture))


def assemble(lines: list[Line]) -> bytes:
    """Turn labels into the distances that BPF has instead. Every jump goes forward."""
    places: dict[str, int] = {}
    instructions: list[tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(instructions)
        else:
            instructions.append(line)
    packed = b""
    for here, (code, operand, if_true, if_false) in enumerate(instructions):
        true, false = (places[to] - here - 1 if to else 0 for to in (if_true, if_false))
        packed += struct.pack("<HBBI", code, true, false, operand)
    return packed


def _lines(architecture: Architecture) -> list[Line]:
    numbers = architecture.numbers
    lines: list[Line] = [
        (LOAD, ARCHITECTURE, NEXT, NEXT),
        (EQUAL, architecture.audit_id, NEXT, "refuse"),
        (LOAD, NUMBER, NEXT, NEXT),
    ]
    if architecture.has_x32:
        lines.append((AT_LEAST, X32_BIT, "refuse", NEXT))
    lines += [(EQUAL, numbers[name], "refuse", NEXT) for name in REFUSED]
    lines += [(EQUAL, numbers[name], name, NEXT) for name in ("socketpair", "sendto", "ioctl")]
    lines.append((RETURN, SECCOMP_RET_ALLOW, NEXT, NEXT))
    lines += [*_socketpair(), *_sendto(), *_ioctl()]
    lines += ["refuse", (RETURN, REFUSAL, NEXT, NEXT)]
    lines += ["allow", (RETURN, SECCOMP_RET_ALLOW, NEXT, NEXT)]
    return lines


def _socketpair() -> list[Line]:
    """Allow AF_UNIX stream pairs: a datagram socket of a pair can still write to any other."""
    return [
        "socketpair",
        (LOAD, _low(0), NEXT, NEXT),
        (EQUAL, AF_UNIX, NEXT, "refuse"),
        (LOAD, _low(1), NEXT, NEXT),
        (AND, SOCK_TYPE_MASK, NEXT, NEXT),
        (EQUAL, SOCK_STREAM, "allow", NEXT),
        (EQUAL, SOCK_SEQPACKET, "allow", "refuse"),
    ]


def _sendto() -> list[Line]:
    """Allow send(): no address, and no MSG_FASTOPEN, which connects."""
    return [
        "sendto",
        (LOAD, _low(4), NEXT, NEXT),
        (EQUAL, 0, NEXT, "refuse"),
        (LOAD, _low(4) + 4, NEXT, NEXT),
        (EQUAL, 0, NEXT, "refuse"),
        (LOAD, _low(3), NEXT, NEXT),
        (ANY_BIT, MSG_FASTOPEN, "refuse", "allow"),
    ]


def _ioctl() -> list[Line]:
    """Refuse to type into the terminal: the shell would read it after we end."""
    return [
        "ioctl",
        (LOAD, _low(1), NEXT, NEXT),
        (EQUAL, TIOCSTI, "refuse", NEXT),
        (EQUAL, TIOCLINUX, "refuse", "allow"),
    ]


def _low(argument: int) -> int:
    """Return the offset of an argument's low 32 bits: all that the kernel takes of an int."""
    return ARGUMENTS + 8 * argument
