"""System calls by number, through ctypes: what Python has no function for. Linux only.

Knows no policy. Import it inside functions: ctypes costs 3 ms.
"""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


def call(number: int, *arguments: int) -> int:
    """Make system call `number` and return its result. Raises OSError with the kernel's errno."""
    LIBC.syscall.restype = ctypes.c_long
    result: int = LIBC.syscall(*(ctypes.c_long(value) for value in (number, *arguments)))
    return _checked(result)


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process; see prctl(2). Raises OSError."""
    _checked(LIBC.prctl(option, *(ctypes.c_ulong(n) for n in (value, 0, 0, 0))))


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for new ones; see unshare(2). Raises OSError."""
    _checked(LIBC.unshare(flags))


def no_new_privileges() -> None:
    """Give up set-user-id programs, for good: the kernel asks it of whoever locks itself."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def no_core_dumps() -> None:
    """Keep this process's memory out of core dumps and from its user's other processes.

    A program that a child starts is readable again until it locks itself. The limit of 1 byte
    holds there too: unlike 0, it also stops a dump that is piped to a program (core(5)).
    """
    import resource

    prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def text_of(path: str) -> str:
    """Return the text of a small file in /proc. Raises OSError."""
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read()


def threads() -> list[str]:
    """Return the ids of this process's threads. Raises OSError."""
    return os.listdir("/proc/self/task")


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
