"""Presence: whether a store is open somewhere, and whether it is encrypted, without opening it."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.errors import GateError
from edgekit.files import disk_errors
from tui.store import vault

PLAIN_STORE, PRIVATE_STORE = "chats.db", "private.db"
"""The names of the two stores, in the folder of chats."""
KEPT = ".damaged-"
"""In the name of a damaged file that rescue kept: private.db became private.damaged-1.db."""

# The header lies on one of the first pages. A page has 4,096 bytes.
_HEAD_BYTES = 64 << 10


def lock_path(path: Path) -> Path:
    """Return the empty file beside a store that is locked while the store is open."""
    return path.with_name(f"{path.name}.lock")


def announce(path: Path) -> int | None:
    """Hold a shared lock beside the store; return its descriptor, to be closed with the store.

    Raises GateError while someone holds it alone, as `edgekit privacy wipe` does. Returns None
    where the system has no such locks.
    """
    if os.name != "posix":
        return None
    import fcntl

    with disk_errors(path.parent):
        handle = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise GateError(
            f"{path} is being removed by another program", hint="wait until it has ended"
        ) from error
    return handle


def in_use(path: Path) -> bool:
    """Return whether a process, this one included, has the store open."""
    if os.name != "posix" or not lock_path(path).exists():
        return False
    import fcntl

    handle = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def is_encrypted(path: Path) -> bool | None:
    """Return whether a file is an encrypted store; None if it is no store, or damaged beyond that.

    Reads the file alone and needs no passphrase.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return None
    header = find_header(head)
    return None if header is None else vault.is_sealed(header)


def find_header(data: bytes) -> bytes | None:
    """Return the first undamaged header in `data`."""
    for magic, length in (
        (vault.SEALED_MAGIC, vault.SEALED_HEADER_BYTES),
        (vault.PLAIN_MAGIC, vault.PLAIN_HEADER_BYTES),
    ):
        at = data.find(magic)
        while at >= 0:
            if vault.is_header(header := data[at : at + length]):
                return header
            at = data.find(magic, at + 1)
    return None
