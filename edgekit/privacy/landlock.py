"""Landlock: which folders may still be written, and a fence round this process. Linux only.

An extra beside the filter: kernels before 5.13 have none. Reading and running stay free. Flags and
layouts are those of linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import InputError
from edgekit.privacy import kernel

# The same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_WRITE_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 1, 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
_MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_WRITES = (
    _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_CHAR | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK
    | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM | _REFER | _TRUNCATE | _IOCTL_DEV
)  # fmt: skip
_IN_A_FOLDER = _WRITES & ~(_MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK | _IOCTL_DEV)
_OF_A_FILE = _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_BIND_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_SINCE = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
_NETWORK_SINCE, _SCOPES_SINCE = 4, 6
# Written by whoever throws output away. Not /dev/shm: a file there outlives the process.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


def version() -> int:
    """Return the version of Landlock that this kernel has in force, or 0."""
    try:
        return kernel.call(CREATE_RULESET, 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(version: int, writable: Sequence[Path] | None) -> None:
    """Fence this thread and its children in, as far as `version` can, for good.

    `writable` None leaves files alone; otherwise only those folders, the null devices and the
    process's own terminal can be written. Where the kernel knows it, also: no TCP, no signal and
    no abstract socket to a process outside, and no look into its memory.

    Raises InputError for a folder that is not there, OSError if the kernel refuses.
    """
    files = 0 if writable is None else _handled(version)
    network = _BIND_AND_CONNECT_TCP if version >= _NETWORK_SINCE else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0
    if not files | network | scopes:
        return
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= _NETWORK_SINCE else 8
    attributes = ctypes.create_string_buffer(struct.pack("<QQQ", files, network, scopes)[:size])
    ruleset = kernel.call(CREATE_RULESET, ctypes.addressof(attributes), size, 0)
    try:
        if writable is not None:
            _allow(ruleset, files, writable)
        kernel.no_new_privileges()
        kernel.call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _handled(version: int) -> int:
    unknown = sum(right for since, right in _SINCE if version < since)
    return _WRITES & ~unknown


def _allow(ruleset: int, handled: int, writable: Sequence[Path]) -> None:
    for folder in writable:
        _add(ruleset, str(folder), handled & _IN_A_FOLDER, os.O_DIRECTORY)
    for device in (*_DEVICES, *_own_terminal()):
        if Path(device).exists():
            _add(ruleset, device, handled & _OF_A_FILE)


def _own_terminal() -> list[str]:
    """Return the terminal that this process was given, and its alias; other ones stay closed."""
    found = set()
    for handle in range(3):
        try:
            found |= {os.ttyname(handle), "/dev/tty"}
        except OSError:
            continue
    return sorted(found)


def _add(ruleset: int, path: str, rights: int, flags: int = 0) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    except OSError as error:
        raise InputError(
            f"{path} cannot be made writable in privacy mode: {error.strerror}",
            hint="make the folder, and check that it is yours",
        ) from error
    try:
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, handle), 12)
        kernel.call(ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(handle)
