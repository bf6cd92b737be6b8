"""Where the trials of a search are written down: a file that several processes share.

Lines of JSON behind Optuna's storage (`JournalFileBackend`): nothing in it is ever unpickled. Who
dies while writing leaves no lock behind and no half a line. It knows nothing of trials.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.files import disk_errors, make_folder

JOURNAL = "journal.jsonl"
BLOCK = 1 << 16


def open_journal(folder: Path) -> Any:
    """Return the storage (an `optuna.storages.JournalStorage`) that lies in `folder`.

    Raises InputError for a damaged one, MissingExtraError without Optuna.
    """
    optuna = need("optuna", "train")
    path = folder / JOURNAL
    make_folder(folder)
    lock = _Lock(path)
    try:
        with disk_errors(folder):
            lock.acquire()
            lock.release()
            backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
            return optuna.storages.JournalStorage(backend)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(
            f"the record of the trials, {path}, is damaged: {error!r:.200}",
            hint=f"remove {folder} and run the same command again",
        ) from error


class _Lock:
    """The lock that Optuna takes for each line: the kernel's, which a dying process gives back.

    Optuna's own ones are files, and one that a killed process left stops the others for 30 s.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def acquire(self) -> bool:
        """Wait for the lock, and mend what a process left that died in mid-line."""
        import fcntl

        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        _mend(self._handle)
        return True

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._handle)


def _mend(handle: int) -> None:
    """Cut the file behind its last line feed."""
    size = end = os.fstat(handle).st_size
    while end:
        first = max(0, end - BLOCK)
        found = os.pread(handle, end - first, first).rfind(b"\n")
        if found >= 0:
            end = first + found + 1
            break
        end = first
    if end < size:
        os.ftruncate(handle, end)


@contextmanager
def at_work(folder: Path) -> Iterator[str]:
    """Yield a name for this process; as long as the block runs, `is_at_work` says so of it."""
    import fcntl

    name = uuid4().hex
    path = _mark(folder, name)
    make_folder(folder)
    with disk_errors(folder):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield name
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def is_at_work(folder: Path, name: str) -> bool:
    """Return whether the process of that name still runs, on this machine or beside it on a shared
    disk; the mark of one that was killed is removed."""
    import fcntl

    path = _mark(folder, name)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(handle)


def _mark(folder: Path, name: str) -> Path:
    """Return the file that a process holds locked; a name from a journal is no path."""
    return folder / f".worker-{''.join(c for c in name if c.isalnum())}"
