"""Files that appear whole or not at all: temporary sibling, fsync, rename.

Every folder or file that edgekit leaves behind is made through this module, so that a kill
or a power cut at any moment leaves the old state or the new one, never half of either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from edgekit.errors import GateError, InputError
from edgekit.units import format_bytes

READ_BYTES = 1 << 20

Waiting = Callable[[], AbstractContextManager[object]]
"""Makes the context in which a process waits for another one, for example to say so."""


class FolderExistsError(InputError):
    """The folder that should be made is there already, perhaps since a moment ago."""


def sha256_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the hex SHA-256 of a file; `on_bytes` is told the size of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path`: a reader sees the old content or the new, also after a power cut.

    `mode` is who may read and write the file. Raises InputError or GateError.
    """
    make_folder(path.parent)
    with disk_errors(path.parent):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream, disk_errors(path.parent):
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it. Raises InputError where that cannot be."""
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{folder} cannot be a folder: there is a file at {error.filename}",
            hint="choose another folder, or remove that file",
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make a folder's list of names durable. Does nothing where folders cannot be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Make every file and folder below `folder`, and `folder` itself, durable."""
    # Windows flushes only what is open for writing; elsewhere read-only files must pass too.
    mode = "rb+" if os.name == "nt" else "rb"
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), mode) as stream:
                os.fsync(stream.fileno())
        fsync_folder(Path(parent))


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GateError(
                f"the disk that holds {folder} is full",
                hint="free some space, or choose another folder, and run the same command again",
            ) from error
        if error.errno == errno.EFBIG:
            raise GateError(
                f"a file is larger than the disk that holds {folder}, or a limit on it, allows",
                hint="choose a folder on another disk, or raise the limit (ulimit -f)",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(
                f"{folder} cannot be written: {error.strerror}",
                hint="choose a folder of yours",
            ) from error
        raise


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise GateError if the disk that will hold `folder` has fewer than `needed_bytes` free."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise GateError(
            f"{folder} needs {format_bytes(needed_bytes)} of disk "
            f"and {format_bytes(free_bytes)} are free",
            hint="free some space, or choose another folder",
        )


@contextmanager
def file_lock(path: Path, waiting: Waiting = nullcontext) -> Iterator[None]:
    """Hold an exclusive lock named by `path`; wait, inside `waiting()`, while another holds it.

    The lock file is removed on the way out. A waiter that then wakes up holding the removed
    file notices that the name is gone and takes the lock again.
    """
    make_folder(path.parent)
    while (handle := _lock(path, waiting)) is None:
        pass
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path, waiting: Waiting) -> int | None:
    """Return a locked handle of `path`, or None if its name went away during the wait."""
    import fcntl

    with disk_errors(path.parent):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting():
                fcntl.flock(handle, fcntl.LOCK_EX)
        if os.stat(path).st_ino == os.fstat(handle).st_ino:
            return handle
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


@contextmanager
def staged_folder(
    destination: Path, *, replace: bool = False, waiting: Waiting = nullcontext
) -> Iterator[Path]:
    """Yield an empty folder that becomes `destination` when the block ends well.

    The staging folder is a hidden sibling, so the last step is one rename. If the block raises,
    it is removed; if the process is killed, the next call for the same destination removes it.
    Two processes with one destination take turns; the second waits inside `waiting()`.

    Raises FolderExistsError if `destination` exists and `replace` is false: the first process
    may just have made it, so a caller who can use that folder catches the error and looks again.
    """
    destination = destination.absolute()
    with file_lock(destination.parent / f".{destination.name}.lock", waiting):
        _recover(destination)
        if destination.exists() and not replace:
            raise FolderExistsError(
                f"{destination} exists already", hint="choose another folder, or remove this one"
            )
        staging = destination.parent / f".{destination.name}.partial"
        try:
            with disk_errors(destination.parent):
                staging.mkdir()
                yield staging
                fsync_tree(staging)
                _swap(staging, destination)
        finally:
            if staging.exists():
                shutil.rmtree(staging)


def _swap(staging: Path, destination: Path) -> None:
    """Rename `staging` to `destination`, keeping the old folder until the new one stands."""
    old = destination.parent / f".{destination.name}.old"
    if destination.exists():
        os.rename(destination, old)
    os.rename(staging, destination)
    fsync_folder(destination.parent)
    if old.exists():
        shutil.rmtree(old)


def _recover(destination: Path) -> None:
    """Finish or undo what a killed process left beside `destination`."""
    old = destination.parent / f".{destination.name}.old"
    staging = destination.parent / f".{destination.name}.partial"
    if old.exists() and not destination.exists():
        os.rename(old, destination)
    for leftover in (old, staging):
        if leftover.exists():
            shutil.rmtree(leftover)
