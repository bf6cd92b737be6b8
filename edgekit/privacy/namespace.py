"""A network namespace of its own: there the process sees no network card at all. Linux only.

An extra below the filter, never instead of it unless the user says so. The user keeps the same
ids and the same files.
"""

from __future__ import annotations

import ctypes
import os

from edgekit.errors import PrivacyError
from edgekit.privacy.kernel import LIBC, threads, unshare

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
# Tells children which namespace they were born in: they may be unable to make another.
_VARIABLE = "EDGEKIT_NETWORK_NAMESPACE"


def enter() -> str:
    """Move this process into an empty network namespace.

    Returns why that could not be, or nothing if it could, or if a locked parent has done it.
    Raises PrivacyError if the kernel stopped half-way.
    """
    if (why := _enter()) and not _is_inherited():
        return why
    os.environ[_VARIABLE] = _own()
    return ""


def _enter() -> str:
    if (count := len(threads())) > 1:
        return f"no network namespace: {count} threads run already, and some would stay outside"
    if os.geteuid() == 0 and not _fault(CLONE_NEWNET):
        return ""
    if not _can_map():
        return "no network namespace: /proc/self/uid_map is write-protected"
    user, group = os.geteuid(), os.getegid()
    if fault := _fault(CLONE_NEWUSER | CLONE_NEWNET):
        return f"no network namespace: this system refuses it ({fault})"
    _map_ids(user, group)
    _drop_capabilities()
    return ""


def _is_inherited() -> bool:
    """Return whether this is the very namespace that a locked parent, or this process, made.

    That no network card is there is not asked: one may be plugged in later.
    """
    return os.environ.get(_VARIABLE) == _own()


def _own() -> str:
    """Return the kernel's name of the network namespace, such as net:[4026532245]."""
    return os.readlink("/proc/self/ns/net")  # noqa: PTH115 - text, not a path


def _fault(flags: int) -> str:
    try:
        unshare(flags)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _can_map() -> bool:
    """Ask before: a process whose ids cannot be mapped any more would be nobody."""
    try:
        os.close(os.open("/proc/self/uid_map", os.O_WRONLY))
    except OSError:
        return False
    return True


def _map_ids(user: int, group: int) -> None:
    """Keep the same user and group id inside; see user_namespaces(7)."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
                stream.write(text)
        except OSError as error:
            raise PrivacyError(
                f"privacy mode does not start: /proc/self/{name} cannot be written in a new "
                f"namespace ({error.strerror})",
                hint="please report this, with the name of your system",
            ) from error


def _drop_capabilities() -> None:
    """Give up what the first process of a user namespace may do inside: mount, for one."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if LIBC.capset(header, nothing) != 0:
        raise PrivacyError(
            "privacy mode does not start: the capabilities of a new namespace stay",
            hint="please report this, with the name of your system",
        )
