"""The weakest lock: Python's own sockets refuse to open. Native code passes it by.

For systems whose kernel offers nothing better, and only if the user accepts that by name.
"""

from __future__ import annotations

import errno
import sys
from typing import Any

_AF_UNIX = 1
_HARMLESS = ("socket.gethostname", "socket.getservbyname", "socket.getservbyport")
_LOOPBACK = ("127.0.0.1", "::1")
_installed = False


def install() -> None:
    """Refuse sockets in this interpreter, for good. Calling it again changes nothing."""
    global _installed
    if not _installed:
        sys.addaudithook(_refuse)
        _installed = True


def refuses(event: str, arguments: tuple[Any, ...], *, needs_loopback: bool) -> bool:
    """Return whether an audit event is an attempt to reach somebody.

    `needs_loopback` is for Windows, where the pair of sockets inside every asyncio loop is
    connected over 127.0.0.1.
    """
    if not event.startswith("socket.") or event in _HARMLESS:
        return False
    if event == "socket.__new__":
        return not needs_loopback and arguments[1] != _AF_UNIX
    if needs_loopback and event in ("socket.bind", "socket.connect"):
        return arguments[1][0] not in _LOOPBACK
    return True


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    # This runs at every audited step of the interpreter: the test that is nearly always false
    # comes first.
    if event.startswith("socket.") and refuses(
        event, arguments, needs_loopback=sys.platform == "win32"
    ):
        raise PermissionError(errno.EACCES, f"refused by privacy mode ({event})")
