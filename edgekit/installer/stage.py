"""Fills a staging folder with a version's files, keeping what a stopped run left there right.

Every byte that is written or kept was compared with its SHA-256. Knows nothing of links and
switching: until the folder is renamed, nothing uses it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .bundle import OnBytes, hash_file, walk
from .contents import INTERPRETER_LINK, Contents, Item
from .disk import remove_file, remove_tree, write_new
from .errors import BundleError, disk_errors
from .wheel import wheel_pieces

# Smaller files are copied: a link saves nothing there, and a copy heals.
LINK_BYTES = 1 << 20
_READ_BYTES = 1 << 20
Same = Callable[[Item], "Path | None"]
"""Returns a file of another version that should have the item's content, or None."""


@dataclass
class Staged:
    """How the bytes of a version came to be there."""

    written_bytes: int = 0
    kept_bytes: int = 0
    linked_bytes: int = 0


def fill(
    staging: Path, bundle_folder: Path, contents: Contents, same: Same, on_bytes: OnBytes
) -> Staged:
    """Make every file of `contents` in `staging`. Raises BundleError or LimitError."""
    staged = Staged()
    with disk_errors(f"{staging} cannot be written"):
        _sweep(staging, contents)
        _make_folders(staging, contents)
        missing = [item for item in contents.items if not _kept(staging, item, staged, on_bytes)]
        missing = [item for item in missing if not _linked(staging, item, same, staged, on_bytes)]
        for item, pieces in _sources(bundle_folder, missing):
            write_new(staging / item.path, _told(pieces, on_bytes), item.mode)
            staged.written_bytes += item.bytes
        link = staging / INTERPRETER_LINK
        remove_file(link)
        link.symlink_to(contents.interpreter)
    return staged


def linkable(items: Iterable[Item], same: Same) -> int:
    """Return how many bytes need no room because another version seems to have them."""
    return sum(item.bytes for item in items if item.bytes >= LINK_BYTES and same(item))


def _sweep(staging: Path, contents: Contents) -> None:
    """Remove what a stopped run left that does not belong here: bytecode, half a file's name."""
    wanted = {item.path for item in contents.items}
    folders = _folders(contents)
    for path, entry in list(walk(staging)):
        is_folder = entry.is_dir(follow_symlinks=False)
        if (is_folder and path not in folders) or (not is_folder and path not in wanted):
            remove_tree(staging / path)


def _folders(contents: Contents) -> set[str]:
    paths = [INTERPRETER_LINK, *(item.path for item in contents.items)]
    return {parent.as_posix() for path in paths for parent in Path(path).parents} - {"."}


def _make_folders(staging: Path, contents: Contents) -> None:
    for folder in sorted(_folders(contents)):
        path = staging / folder
        if not path.is_dir():
            remove_file(path)
            path.mkdir(0o755)


def _kept(staging: Path, item: Item, staged: Staged, on_bytes: OnBytes) -> bool:
    """Return whether the file is there already and right."""
    path = staging / item.path
    if not _is(path, item):
        return False
    os.chmod(path, item.mode)
    staged.kept_bytes += item.bytes
    on_bytes(item.bytes)
    return True


def _linked(staging: Path, item: Item, same: Same, staged: Staged, on_bytes: OnBytes) -> bool:
    """Link a large file that another version has, after checking that it is still right."""
    other = same(item) if item.bytes >= LINK_BYTES else None
    if other is None or not _is(other, item):
        return False
    path = staging / item.path
    remove_file(path)
    try:
        os.link(other, path)
    except OSError:
        return False  # this disk has no hard links, or the file has too many
    staged.linked_bytes += item.bytes
    on_bytes(item.bytes)
    return True


def _is(path: Path, item: Item) -> bool:
    try:
        state = os.lstat(path)
        if not stat.S_ISREG(state.st_mode) or state.st_size != item.bytes:
            return False
        return hash_file(path) == (item.bytes, item.sha256)
    except OSError:
        return False


def _sources(bundle_folder: Path, items: list[Item]) -> Iterator[tuple[Item, Iterable[bytes]]]:
    for item in items:
        if item.text is not None:
            yield item, [item.text.encode()]
        elif item.bundled:
            yield item, _copied(bundle_folder / item.bundled, item)
    for wheel in sorted({item.wheel for item in items if item.wheel}):
        by_member = {item.member: item for item in items if item.wheel == wheel and item.member}
        for member, pieces in wheel_pieces(bundle_folder / wheel, list(by_member)):
            yield by_member[member], pieces


def _copied(path: Path, item: Item) -> Iterator[bytes]:
    """Yield the content of a file of the bundle, and check again that it is what was verified."""
    digest = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        while piece := os.read(handle, _READ_BYTES):
            digest.update(piece)
            yield piece
    finally:
        os.close(handle)
    if digest.hexdigest() != item.sha256:
        raise BundleError(
            f"{path} changed while it was copied",
            hint="the stick may be failing: copy the bundle to another one",
        )


def _told(pieces: Iterable[bytes], on_bytes: OnBytes) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        on_bytes(len(piece))
