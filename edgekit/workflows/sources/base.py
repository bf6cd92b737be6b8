"""What `pull` asks of a source, and the steps that several sources share."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from edgekit.artifact import FileEntry
from edgekit.files import READ_BYTES
from edgekit.progress import Advance, Progress
from edgekit.workflows.sources.record import Origin, Record

POLL_SECONDS = 0.1


class Source(Protocol):
    """A place that a model comes from."""

    @property
    def text(self) -> str:
        """Return the source as the record keeps it and as `pull` accepts it."""
        ...

    @property
    def default_name(self) -> str:
        """Return the name that the model gets in the store if the user chooses none."""
        ...

    def is_source_of(self, record: Record, progress: Progress) -> bool:
        """Return whether filling a folder again would give the model that `record` describes.

        Touches no network. A source on this machine compares contents, so that a model that
        was trained further is not taken for the one that was pulled before.
        """
        ...

    def fill(self, folder: Path, progress: Progress) -> Origin:
        """Put a checkpoint into the empty `folder`. Raises InputError."""
        ...

    def clean(self) -> None:
        """Remove what was kept to continue an interrupted `fill`: the model is in the store."""
        ...


def tool_versions(*packages: str) -> dict[str, str]:
    """Return the versions of edgekit, Python and `packages`, for a record."""
    versions = {"python": platform.python_version()}
    for package in ("edgekit", *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def copy_hashed(stream: BinaryIO, target: Path, advance: Advance) -> FileEntry:
    """Write what `stream` still holds to the new file `target`; return its size and hash."""
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        while piece := stream.read(READ_BYTES):
            out.write(piece)
            digest.update(piece)
            size += len(piece)
            advance(len(piece))
    return FileEntry(target.name, size, digest.hexdigest())


@contextmanager
def growing(
    progress: Progress, label: str, total: int, measure: Callable[[], int]
) -> Iterator[None]:
    """Show a task of `total` bytes, from outside: `measure()` says how many have arrived.

    For work done by a tool that does not tell. `measure` runs in a thread of its own.
    """
    stop = threading.Event()
    with progress.task(label, total) as advance:
        watcher = threading.Thread(
            target=_watch, args=(stop, total, measure, advance), name="growing", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _watch(stop: threading.Event, total: int, measure: Callable[[], int], advance: Advance) -> None:
    done, stopped = 0, False
    while not stopped:
        stopped = stop.wait(POLL_SECONDS)
        size = min(measure(), total)
        if size > done:
            advance(size - done)
            done = size


def file_sizes(folder: Path) -> list[int]:
    """Return the size of every file below `folder`; files may come and go meanwhile."""
    sizes = []
    for parent, _, names in os.walk(folder):  # it passes over folders that have just gone
        for name in names:
            with suppress(OSError):
                sizes.append(os.lstat(os.path.join(parent, name)).st_size)
    return sizes
