"""What old runs left in the cache: states that nobody has gone on with for a long time.

A run's state is removed when the run is finished. One whose configuration or data was changed
since would stay for ever. It knows folders and locks, not what lies in them.
"""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgekit.files import file_lock

KEPT_DAYS = 30
DAY_S = 86400.0
PREFIX = "run-"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder that was removed, how large it was, and for how long nothing in it had changed."""

    folder: Path
    bytes: int
    days: float


def lock_of(folder: Path) -> Path:
    """Return the lock that a live process holds while it works in the run's `folder`."""
    return folder.parent / f".{folder.name}.lock"


def remove_old_runs(place: Path, beside: Path) -> list[Leftover]:
    """Remove the runs in `place` that are more than 30 days old, but for `beside`.

    A run that a live process works on stays, however old. Returns what was removed.
    """
    folders = sorted(place.glob(f"{PREFIX}*")) if place.is_dir() else []
    found = (_removed(folder) for folder in folders if folder != beside)
    return [leftover for leftover in found if leftover is not None]


class _BusyError(Exception):
    pass


def _do_not_wait() -> AbstractContextManager[object]:
    raise _BusyError


def _removed(folder: Path) -> Leftover | None:
    try:
        if _age_days(folder) <= KEPT_DAYS:
            return None
        with file_lock(lock_of(folder), _do_not_wait):
            days = _age_days(folder)  # another process may have gone on with it in between
            if days <= KEPT_DAYS:
                return None
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            shutil.rmtree(folder)
    except (_BusyError, OSError):  # in use, or somebody else removes it
        return None
    return Leftover(folder, size, days)


def _age_days(folder: Path) -> float:
    """Return for how long nothing in `folder` has changed."""
    newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    return (time.time() - newest) / DAY_S
