"""Which relative paths a bundle, a wheel or a list of installed files may name.

Knows no file system: it judges text. Everything that could lead outside, mean another file on
another system, or hide from a reader is refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from .errors import BundleError

MOST_PATH_BYTES = 1024
MOST_NAME_BYTES = 255


def check_path(path: object, where: str) -> str:
    """Return `path` if it is a plain relative path with `/`. Raises BundleError."""
    if not isinstance(path, str):
        raise BundleError(f"{where}: a path should be text, it is {path!r:.80}")
    fault = _fault(path)
    if fault:
        raise BundleError(f"{where}: the path {path!r:.200} {fault}")
    return path


def _fault(path: str) -> str:
    try:
        size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 0 < size <= MOST_PATH_BYTES:
        return f"has {size} bytes, and 1 to {MOST_PATH_BYTES} are allowed"
    if any(c in path for c in '\\:*?"<>|') or not path.isprintable():
        return "holds a character that is not allowed"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return "is not a plain path inside the folder"
        if len(name.encode("utf-8")) > MOST_NAME_BYTES:
            return f"has a name of more than {MOST_NAME_BYTES} bytes"
        if name[-1] in ". ":
            return "has a name that ends with a dot or a space"
    return ""


def refuse_collisions(paths: Iterable[str], where: str) -> None:
    """Raise BundleError if two paths are one on some disk, or a file is also a folder."""
    files: dict[str, str] = {}
    folders: set[str] = set()
    for path in paths:
        key = _folded(path)
        if key in files:
            raise BundleError(f"{where}: {files[key]!r} and {path!r} are the same file")
        files[key] = path
        parts = key.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    for key in folders & set(files):
        raise BundleError(f"{where}: {files[key]!r} is a file and a folder")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
