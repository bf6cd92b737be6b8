"""privacy rescue: put what can be read of a damaged store into a new one, in its place.

The damaged file is kept beside it under another name, with its log, and never changed. A kill at
any moment leaves the damaged file or the new one in place, and the damaged one complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit import store
from edgekit.errors import GateError, InputError
from edgekit.files import disk_errors, fsync_folder
from tui.store import presence
from tui.store.chats import ChatStore
from tui.store.database import DamagedStoreError
from tui.store.rescue import is_encrypted, rescue

STORES = {"chats": presence.PLAIN_STORE, "private": presence.PRIVATE_STORE}
_LOG, _LOG_INDEX = "-wal", "-shm"


@dataclass(frozen=True, slots=True)
class Saved:
    """What was found, and done, for the store at `path`.

    `faults` are sentences; without any, nothing was done. `chats` and `messages` were saved,
    `lost` records were not; `kept` is the damaged file now.
    """

    path: str
    faults: tuple[str, ...]
    chats: int = 0
    messages: int = 0
    lost: int = 0
    kept: str = ""


def stores(name: str | None) -> list[Path]:
    """Return the paths of the stores that are there, the plain one first, or of the one named.

    Raises InputError if there is none.
    """
    wanted = STORES.values() if name is None else [STORES[name]]
    found = [store.chats() / file for file in wanted if (store.chats() / file).is_file()]
    if not found:
        raise InputError(
            f"there is nothing to rescue: {store.chats()} holds no store of chats",
            hint="put the damaged file back in its place first",
        )
    return found


def needs_passphrase(path: Path) -> bool:
    """Return whether a store is encrypted. Raises InputError if it has no readable header."""
    return is_encrypted(path)


def save(path: Path, passphrase: str | None, *, always: bool = False) -> Saved:
    """Rescue the store at `path` if it is damaged, or also if it only seems so to a newer edgekit.

    With `always`, one that is refused for another reason than damage counts as damaged. Raises
    GateError while a chat is open, PrivacyError for a wrong passphrase, InputError if nothing can
    be read.
    """
    faults = _faults(path, passphrase, always=always)
    if not faults:
        return Saved(str(path), ())
    with _alone(path), disk_errors(path.parent):
        earlier = _kept_earlier(path)
        kept = earlier or _keep(path)
        new = path.with_name(f".{path.name}.rescued")
        try:
            _remove(new)
            found = rescue(kept, passphrase, new)
        except BaseException:
            _remove(new)
            if earlier is None:
                _remove(kept)  # a second name: the file is where it was
            raise
        _swap(new, path)
    return Saved(str(path), tuple(faults), found.chats, found.messages, found.lost, str(kept))


def _faults(path: Path, passphrase: str | None, *, always: bool) -> list[str]:
    try:
        chats = ChatStore.open(path, passphrase)
    except InputError as error:
        if always or isinstance(error, DamagedStoreError):
            return [error.message]
        raise
    try:
        messages = [sentence for chat in chats.chats() for sentence in chats.load(chat.id)[2]]
        return [*chats.damage, *messages]
    finally:
        chats.close()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the store's lock, so that no chat has it open. Raises GateError if one has."""
    if os.name != "posix":
        yield
        return
    import fcntl

    handle = os.open(presence.lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise GateError(
            f"a chat is open on {path}: nothing was changed",
            hint="close every chat, then run edgekit privacy rescue again",
        ) from error
    finally:
        os.close(handle)


def _kept_earlier(path: Path) -> Path | None:
    """Return the name that a rescue gave the file before it was killed in its last step.

    The file has lost its log since, and that name has it; unless the file was written to later.
    """
    if _with(path, _LOG).exists():
        return None
    for kept in path.parent.glob(f"{path.stem}{presence.KEPT}*{path.suffix}"):
        log = _with(kept, _LOG)
        if kept.samefile(path) and log.exists() and log.stat().st_mtime >= path.stat().st_mtime:
            return kept
    return None


def _keep(path: Path) -> Path:
    """Give a damaged file and its log a second name, and return it."""
    number = 1
    while (kept := path.with_name(f"{path.stem}{presence.KEPT}{number}{path.suffix}")).exists():
        number += 1
    if _with(path, _LOG).exists():
        _with(kept, _LOG).unlink(missing_ok=True)
        _second_name(_with(path, _LOG), _with(kept, _LOG))
    _second_name(path, kept)
    fsync_folder(path.parent)
    return kept


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a memory card's file system may know no second names
        shutil.copy2(path, name)


def _swap(new: Path, path: Path) -> None:
    """Put the new store in the place of the old, whose log must not be taken for the new one's."""
    for suffix in (_LOG, _LOG_INDEX):
        _with(path, suffix).unlink(missing_ok=True)
    os.replace(new, path)
    presence.lock_path(new).unlink(missing_ok=True)
    fsync_folder(path.parent)


def _remove(path: Path) -> None:
    for file in (path, _with(path, _LOG), _with(path, _LOG_INDEX), presence.lock_path(path)):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
