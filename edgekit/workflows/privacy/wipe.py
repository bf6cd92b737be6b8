"""privacy wipe: destroy the keys, then overwrite and remove everything that holds the user's text.

The order is the promise: once the keys are gone, a kill or a power cut leaves nothing readable of
an encrypted store, and the next run goes on where this one stopped. Models, artifacts and settings
stay. Links are removed, never followed.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgekit import store
from edgekit.errors import GateError, InputError
from edgekit.files import fsync_folder
from edgekit.workflows.privacy.stored import DATABASE_MAGIC, Stored, described, files_in
from tui.store import presence, vault

PIECE_BYTES = 1 << 20
_MAGIC = re.escape(vault.SEALED_MAGIC)
LOCK_SUFFIX = ".lock"
NOT_PROMISED = (
    "flash memory (SSD, SD card) and some file systems keep old blocks: only an encrypted disk, "
    "or destroying the card, is certain there",
    "snapshots, backups and copies of the folder",
    "swap and hibernation files, where text in memory may have been written",
    "chats that you exported or saved elsewhere, and what a terminal's scroll-back holds",
)


@dataclass(frozen=True, slots=True)
class Left:
    """A file that could not be removed, or whose content may live on, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Wiped:
    """What was removed, and what is left."""

    removed: tuple[Stored, ...]
    left: tuple[Left, ...]

    def enforce(self) -> None:
        """Raise InputError if something that holds the user's text is still there."""
        there = [left.path for left in self.left if os.path.lexists(left.path)]
        if there:
            raise InputError(
                f"{there[0]} could not be removed",
                hint="remove it by hand, or as the user that it belongs to",
            )


def planned() -> list[Stored]:
    """Return what `wipe` removes: chats, personas, drafts, exports, and figures of your texts."""
    found = [described(path) for folder in _folders() for path in files_in(folder)]
    return [file for file in found if file.bytes or file.what.startswith("a link")]


def wipe() -> Wiped:
    """Remove everything that `planned` lists. Raises GateError while a chat is open."""
    with _alone(store.chats()):
        found = planned()
        paths = [path for folder in _folders() for path in files_in(folder)]
        alone = _ours_alone(paths)
        left = [each for path in paths if path in alone for each in _destroy_keys(path)]
        left += [each for path in paths for each in _remove(path, overwrite=path in alone)]
        left += [each for folder in _folders() for each in _remove_folders(folder)]
    gone = tuple(file for file in found if not os.path.lexists(file.path))
    return Wiped(gone, tuple(left))


def _folders() -> tuple[Path, ...]:
    return (store.chats(), store.home() / "exports", store.cache() / "references")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of every store in `folder`, so that no chat is open and none can open.

    Raises GateError if one is open.
    """
    with ExitStack() as held:
        if os.name == "posix" and folder.is_dir() and not folder.is_symlink():
            import fcntl

            for path in _stores(folder):
                handle = _open_lock(presence.lock_path(path))
                held.callback(os.close, handle)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise GateError(
                        f"a chat is open on {path}: nothing was removed",
                        hint="close every chat, then run edgekit privacy wipe again",
                    ) from error
        yield


def _stores(folder: Path) -> list[Path]:
    """Return the stores in a folder: the two that edgekit makes, and what else is a database."""
    names = {folder / name for name in (presence.PLAIN_STORE, presence.PRIVATE_STORE)}
    locks = {path.with_name(path.name.removesuffix(LOCK_SUFFIX)) for path in folder.glob("*.lock")}
    databases = {path for path in folder.iterdir() if _is_database(path)}
    return sorted(names | locks | databases)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_database(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(DATABASE_MAGIC)) == DATABASE_MAGIC


def _destroy_keys(path: Path) -> list[Left]:
    """Overwrite every wrapped key in a file, in its log and its old pages too."""
    try:
        with _opened(path, os.O_RDWR) as stream:
            for at in _places(stream):
                stream.seek(at)
                stream.write(secrets.token_bytes(vault.SEALED_HEADER_BYTES))
            _flush(stream)
    except OSError as error:
        return [Left(str(path), f"its key was not overwritten: {error.strerror}")]
    return []


def _ours_alone(paths: Iterable[Path]) -> set[Path]:
    """Return the files that may be overwritten: no links, and with no other name elsewhere.

    An export or a rescue that was killed in its last step leaves two names of one file here.
    """
    files = {p: p.stat() for p in paths if not p.is_symlink() and p.is_file()}
    names = Counter((facts.st_dev, facts.st_ino) for facts in files.values())
    return {p for p, facts in files.items() if names[facts.st_dev, facts.st_ino] == facts.st_nlink}


def _opened(path: Path, flags: int) -> BinaryIO:
    """Open a file that is there, for writing; never through a link."""
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    return os.fdopen(handle, "r+b" if flags == os.O_RDWR else "wb")


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _places(stream: BinaryIO) -> list[int]:
    """Return where the headers of encrypted stores begin in a file."""
    found: list[int] = []
    start, tail = 0, b""
    while piece := stream.read(PIECE_BYTES):
        data = tail + piece
        found += [start + match.start() for match in re.finditer(_MAGIC, data)]
        tail = data[-(len(vault.SEALED_MAGIC) - 1) :]
        start += len(data) - len(tail)
    return found


def _remove(path: Path, *, overwrite: bool) -> list[Left]:
    """Overwrite and remove one file; return what remains to be said of it."""
    left = []
    if path.is_symlink():
        left.append(Left(str(path), f"a link; {path.readlink()} is untouched"))
    elif overwrite:
        try:
            _overwrite(path)
        except OSError as error:
            left.append(Left(str(path), f"it was not overwritten: {error.strerror}"))
    elif path.is_file():
        left.append(Left(str(path), "it has another name elsewhere, which keeps its content"))
    try:
        path.unlink()
        fsync_folder(path.parent)
    except OSError as error:
        left.append(Left(str(path), f"it was not removed: {error.strerror}"))
    return left


def _overwrite(path: Path) -> None:
    """Replace the content of a file by noise, on the disk, before its name goes."""
    with _opened(path, os.O_WRONLY) as stream:
        left = os.fstat(stream.fileno()).st_size
        while left > 0:
            left -= stream.write(secrets.token_bytes(min(left, PIECE_BYTES)))
        _flush(stream)


def _remove_folders(folder: Path) -> list[Left]:
    """Remove the folders below `folder`, and `folder`; say which one does not go."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    left = []
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError as error:
            left.append(Left(parent, f"it was not removed: {error.strerror}"))
    fsync_folder(folder.parent)
    return left
