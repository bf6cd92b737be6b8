"""Sockets that were opened before the lock: a filter on socket() does not reach them.

Linux only: it reads /proc/self. Descriptors 0 to 2 are somebody's terminal or pipe: they are
named, never touched.
"""

from __future__ import annotations

import ctypes
import os

from edgekit.errors import PrivacyError
from edgekit.privacy.kernel import LIBC, text_of

FIRST_OF_OURS = 3
_FAMILIES = {
    1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET",
    31: "AF_BLUETOOTH", 38: "AF_ALG", 40: "AF_VSOCK", 44: "AF_XDP",
}  # fmt: skip
_SOL_SOCKET, _SO_DOMAIN = 1, 39
# What else carries packets: rings that do system calls unseen, and virtual network cards.
_CARRIERS = ("anon_inode:[io_uring]", "/dev/net/tun", "/dev/vhost")


def close_sockets() -> tuple[str, ...]:
    """Close every socket and io_uring from descriptor 3 on; return what was closed, described.

    The number goes on to exist, as /dev/null: whoever owned the socket may close it later, and
    must not then close a file that got the same number.

    Raises PrivacyError if /proc does not tell, or if a mapping keeps a closed ring alive.
    """
    closed = []
    for handle, target in _open_handles():
        if handle >= FIRST_OF_OURS and _leads_out(target):
            closed.append(_describe(handle, target))
            _replace_by_null(handle)
    _require_no_mapping()
    return tuple(closed)


def sockets_left() -> tuple[str, ...]:
    """Return the sockets that are still open, described. Raises PrivacyError."""
    return tuple(_describe(n, target) for n, target in _open_handles() if _leads_out(target))


def _open_handles() -> list[tuple[int, str]]:
    try:
        handles = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError as error:
        raise _blind(error) from error
    found = []
    for handle in sorted(handles):
        try:
            target = os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - text, not a path
        except FileNotFoundError:  # the listing's own
            continue
        except OSError as error:
            raise _blind(error) from error
        found.append((handle, target))
    return found


def _blind(error: OSError) -> PrivacyError:
    return PrivacyError(
        f"privacy mode does not start: /proc does not tell which sockets are open "
        f"({error.strerror})",
        hint="mount /proc",
    )


def _leads_out(target: str) -> bool:
    return target.startswith(("socket:", *_CARRIERS))


def _describe(handle: int, target: str) -> str:
    if not target.startswith("socket:"):
        return f"{target} fd {handle}"
    family, size = ctypes.c_int(-1), ctypes.c_uint(4)
    LIBC.getsockopt(handle, _SOL_SOCKET, _SO_DOMAIN, ctypes.byref(family), ctypes.byref(size))
    return f"socket {_FAMILIES.get(family.value, f'family {family.value}')} fd {handle}"


def _replace_by_null(handle: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, handle, inheritable=False)
    os.close(null)


def _require_no_mapping() -> None:
    """A ring that is still mapped lives on without its descriptor, and its thread with it."""
    try:
        maps = text_of("/proc/self/maps")
    except OSError as error:
        raise _blind(error) from error
    if any(name in maps for name in ("socket:[", *_CARRIERS)):
        raise PrivacyError(
            "privacy mode does not start: this process has mapped a socket or an io_uring",
            hint="start edgekit from a program that does not",
        )
