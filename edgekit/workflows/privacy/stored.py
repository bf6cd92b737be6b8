"""What is stored: every file under EDGEKIT_HOME that may hold the user's text, and whether it is
encrypted, judged by the file's content and never by its name.

Models and artifacts hold no text of the user's and are passed over. Links are named, not followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import store
from edgekit.settings import SETTINGS_NAME
from tui.store import presence

DATABASE_MAGIC = b"SQLite format 3\0"
WAL_MAGICS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
SIDE_FILES = {"-wal": "log of the chats", "-shm": "index of the log", "-journal": "old pages"}
PIECE_BYTES = 1 << 20
# A run of printable bytes so long comes up in ciphertext once in 10^13 bytes.
READABLE = re.compile(rb"[\x20-\x7e]{32,}")
NOT_TEXT_OF_YOURS = ("models", "artifacts", "cache")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file: `what` it is, in words, and whether it says nothing without the passphrase."""

    path: str
    encrypted: bool
    what: str
    bytes: int


def stored() -> list[Stored]:
    """Return the files that may hold text of the user's. Empty ones and lock files do not."""
    home = store.home()
    folders = (home / "exports", store.chats(), store.cache() / "references")
    found = [described(path) for folder in folders for path in files_in(folder)]
    known = {path.name for path in folders} | set(NOT_TEXT_OF_YOURS)
    if home.is_dir():
        for path in sorted(home.iterdir()):
            if path.name not in known or path.is_symlink():
                found += [described(file) for file in files_in(path)]
    return [file for file in found if file.bytes or file.what.startswith("a link")]


def files_in(path: Path) -> Iterator[Path]:
    """Yield `path` if it is a file or a link, or everything below it that is not a folder."""
    if path.is_symlink() or not path.is_dir():
        if path.is_symlink() or path.exists():
            yield path
        return
    for parent, folders, names in os.walk(path):
        folders.sort()
        here = Path(parent)
        yield from (here / name for name in sorted(names))
        yield from (here / name for name in folders if (here / name).is_symlink())


def described(path: Path) -> Stored:
    """Return what a file is."""
    if path.is_symlink():
        return Stored(str(path), False, f"a link to {path.readlink()}, which is not looked at", 0)
    try:
        size = path.stat().st_size if path.is_file() else 0
        encrypted = is_encrypted(path)
    except OSError as error:
        return Stored(str(path), False, f"cannot be read: {error.strerror}", 1)
    return Stored(str(path), encrypted, _what(path), size)


def is_encrypted(path: Path) -> bool:
    """Return whether a file is (part of) an encrypted store, and no readable text is in it."""
    suffix = next((s for s in SIDE_FILES if path.name.endswith(s)), "")
    with path.open("rb") as stream:
        head = stream.read(len(DATABASE_MAGIC))
    if not suffix:
        whole = head == DATABASE_MAGIC and presence.is_encrypted(path) is True
        return whole and not has_readable_text(path)
    database = path.with_name(path.name.removesuffix(suffix))
    if suffix == "-wal" and not head.startswith(WAL_MAGICS):
        return False
    return presence.is_encrypted(database) is True and not has_readable_text(path)


def has_readable_text(path: Path) -> bool:
    """Return whether a file has a long run of readable characters beside the tables' names."""
    tail = b""
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            found = READABLE.finditer(tail + piece)
            if any(b"CREATE TABLE" not in run.group() for run in found):
                return True
            tail = piece[-256:]
    return False


def _what(path: Path) -> str:
    if not path.is_file():
        return "no ordinary file"
    if path.parent == store.home() and path.name == SETTINGS_NAME:
        return "settings, no text of yours"
    if presence.KEPT in path.name and path.parent == store.chats():
        return "a damaged store, kept by rescue"
    for suffix, what in SIDE_FILES.items():
        if path.name.endswith(suffix):
            return what
    with path.open("rb") as stream:
        if stream.read(len(DATABASE_MAGIC)) == DATABASE_MAGIC:
            kind = presence.is_encrypted(path)
            return "a database, unknown" if kind is None else "chats, personas and drafts"
    if path.is_relative_to(store.cache()):
        return "figures of a text that check measured"
    if path.is_relative_to(store.home() / "exports"):
        return "an exported chat"
    return "unknown"
