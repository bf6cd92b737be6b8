"""Install the lock's filter in every thread of this process. Knows nothing of what it refuses."""

from __future__ import annotations

import ctypes

from edgekit.errors import PrivacyError
from edgekit.privacy import kernel, program
from edgekit.privacy.architecture import Architecture

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(architecture: Architecture) -> None:
    """Lock this process, its threads and all their children, for good.

    Raises OSError if the kernel has no such filter, PrivacyError if a thread could not be locked.
    """
    code = program.build(architecture)
    filled = _Program(len(code) // 8, code)
    kernel.no_new_privileges()
    thread = kernel.call(
        architecture.numbers["seccomp"],
        SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.addressof(filled),
    )
    if thread != 0:
        raise PrivacyError(
            f"privacy mode does not start: thread {thread} has locked itself in another way",
            hint="please report this, with the name of your system",
        )


def filters() -> int | None:
    """Return how many filters this process runs under, or None if the kernel does not say."""
    for line in kernel.text_of("/proc/self/status").splitlines():
        if line.startswith("Seccomp_filters:"):
            return int(line.split()[1])
    return None
