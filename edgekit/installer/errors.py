"""The errors that the installer explains, with edgekit's exit codes.

    InstallerError      1   (never raised itself)
    ├── UsageError      2   the command line asks for something impossible
    ├── BundleError     3   a bundle, a wheel, a key or an installed file is bad
    └── LimitError      5   this machine does not fit: platform, disk, memory, the smoke test

The installer travels without the rest of edgekit, so these are not edgekit.errors.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager


class InstallerError(Exception):
    """A problem told in one sentence; `hint` is the next step, or empty."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(InstallerError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


class BundleError(InstallerError):
    """A bundle, a wheel, a key or an installed file is bad."""

    exit_code = 3


class LimitError(InstallerError):
    """This machine does not meet what the bundle needs."""

    exit_code = 5


_SENTENCES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the disk, or a limit on it (ulimit -f), allows",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk has a read or write error",
    errno.ENAMETOOLONG: "the name is too long for this disk",
}
_LIMITS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINTS = {
    errno.EACCES: "choose another folder with --prefix, or run it as root",
    errno.EPERM: "choose another folder with --prefix, or run it as root",
    errno.EROFS: "choose another folder with --prefix",
    errno.EIO: "the card or stick may be worn out: try another one",
}


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an error of the operating system into one sentence about `what`."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        reason = _SENTENCES.get(number) or (error.strerror or str(error)).lower()
        place = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        kind = LimitError if number in _LIMITS else BundleError
        hint = _HINTS.get(number, "free some space and run the same command again")
        raise kind(
            f"{what}: {reason}{place}", hint if number in (*_HINTS, *_LIMITS) else ""
        ) from error
