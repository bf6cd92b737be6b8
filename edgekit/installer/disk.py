"""Files, links and folders that survive a kill and a power cut; the lock of a prefix.

Knows nothing of bundles. Everything is written through os.open/os.write/os.fsync, so that a
test can stop the process before any one of these calls.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BundleError, disk_errors

FILE_MODE = 0o644
PROGRAM_MODE = 0o755


def write_new(path: Path, pieces: Iterable[bytes], mode: int = FILE_MODE) -> None:
    """Write a file that is not durable yet, in place of what is at `path`.

    The old name is removed first and never opened: it may be a hard link to a model that another
    version uses.
    """
    remove_file(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        for piece in pieces:
            _write_all(handle, piece)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Write `data` to `path`: old content or new, durable on return. Needs the prefix's lock."""
    temporary = path.with_name(f".{path.name}.new")
    with disk_errors(f"{path} cannot be written"):
        write_new(temporary, [data], mode)
        sync_path(temporary)
        os.replace(temporary, path)
        sync_path(path.parent)


def point_link(link: Path, target: str) -> None:
    """Make the symbolic link `link` point to `target`, in one step, durable on return."""
    temporary = link.with_name(f".{link.name}.new")
    with disk_errors(f"{link} cannot be made"):
        remove_file(temporary)
        temporary.symlink_to(target)
        os.replace(temporary, link)
        sync_path(link.parent)


def remove_file(path: Path) -> bool:
    """Remove a file or a link; return whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def remove_tree(path: Path) -> None:
    """Remove a folder with all it holds; a link is removed, not followed."""
    with disk_errors(f"{path} cannot be removed"):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def remove_if_empty(folder: Path) -> bool:
    """Remove an empty folder; return whether it is gone."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def sync_path(path: Path) -> None:
    """Make a file's content, or a folder's list of names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make everything below `folder` durable.

    On Linux by one syncfs: three thousand fsyncs take minutes on an SD card, one syncfs writes
    the same data in the card's own order. It also reports write errors (since Linux 5.8), which
    os.sync does not. Elsewhere file by file.
    """
    with disk_errors(f"{folder} cannot be made durable"):
        if not _syncfs(folder):
            for parent, _, names in os.walk(folder):
                for name in names:
                    path = Path(parent, name)
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        sync_path(path)
                sync_path(Path(parent))


def _syncfs(folder: Path) -> bool:
    """Flush the whole file system of `folder`; return False where that call does not exist."""
    import ctypes  # here, because a hardened service may not load it (MemoryDenyWriteExecute)

    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError, TypeError):
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        # The fsync first: it is the one that a test can stop at, and it makes `folder` itself
        # durable where syncfs is a stub that does nothing.
        os.fsync(handle)
        if call(handle) == 0:
            return True
        number = ctypes.get_errno()
    finally:
        os.close(handle)
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(folder))


def make_folders(folder: Path) -> list[Path]:
    """Create `folder` and what is missing above it; return what was made, outermost first."""
    missing: list[Path] = []
    for path in (folder, *folder.parents):
        if path.is_dir():
            break
        if os.path.lexists(path):
            raise BundleError(f"{path} is no folder", hint="choose another folder with --prefix")
        missing.insert(0, path)
    with disk_errors(f"{folder} cannot be made"):
        return [path for path in missing if _make_folder(path)]


def _make_folder(path: Path) -> bool:
    """Make one folder, durable; return whether it was made here, or by another one meanwhile."""
    try:
        path.mkdir(0o755)
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    sync_path(path.parent)
    return True


def require_links(folder: Path) -> None:
    """Raise BundleError where symbolic links cannot be made, as on FAT and exFAT."""
    probe = folder / ".link-probe"
    try:
        remove_file(probe)
        probe.symlink_to("install.lock")
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
            with disk_errors(f"{folder} cannot be written"):
                raise
        raise BundleError(
            f"the disk that holds {folder} has no symbolic links (FAT and exFAT have none), "
            "and versions are switched by one",
            hint="choose a folder on the system's own disk with --prefix",
        ) from error
    probe.unlink()


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the exclusive lock named by `path`; yield its descriptor.

    A child that inherits the descriptor holds the lock too, so that what a killed installer
    started has ended before the next installer begins. `waiting` is called once if another
    holds the lock. The file may be removed while the lock is held.
    """
    while (handle := _lock(path, waiting)) is None:
        pass
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(path: Path, waiting: Callable[[], None]) -> int | None:
    """Return a locked descriptor of `path`, or None if its name went away during the wait."""
    import fcntl

    with disk_errors(f"{path} cannot be written"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
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


def _write_all(handle: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(handle, view) :]
