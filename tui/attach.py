"""Reads a text file to send along with a question. Every file is hostile, its name included.

Writes nothing: in private mode the text goes to the store and nowhere else. Knows no model; the
caller says how tokens are counted.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from edgekit.errors import InputError
from edgekit.units import format_bytes
from tui.clean import clean_line, clean_paste
from tui.conversation import Attachment

# Far more than any context holds: English text is about four bytes a token.
MAX_BYTES = 4_000_000

_ESCAPED = re.compile(r"\\(.)")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_attachment(typed: str | Path, count: Callable[[str], int]) -> Attachment:
    """Read a text file; `count` says how many tokens a text has.

    `typed` is a path as people type it, or as a terminal pastes a file that was dropped on it:
    quoted, with backslashes before spaces, or as a file: address; `~` is the home folder.
    The text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Raises InputError if the file
    cannot be read, is not a regular file, is empty, larger than `MAX_BYTES`, or is not text.
    """
    path = typed if isinstance(typed, Path) else as_path(typed)
    name = clean_line(path.name)
    text = _decode(_read(path), name)
    if not text.strip():
        raise InputError(f"{name} holds no text", hint="choose another file")
    return Attachment(name, text, count(text))


def as_path(typed: str) -> Path:
    """Return the path that was typed or pasted. Raises InputError if there is none."""
    text = typed.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif text.startswith("file://"):
        text = unquote(text.removeprefix("file://"))
    elif os.name == "posix" and "\\" in text and not _exists(Path(text)):
        text = _ESCAPED.sub(r"\1", text)
    if not text or "\0" in text:
        raise InputError("no file was named", hint="write /attach FILE")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"{clean_line(text)} names a home folder that does not exist") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _read(path: Path) -> bytes:
    shown = clean_line(str(path))
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{shown} cannot be read: {reason}", hint="check the path") from error
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        raise InputError(f"{shown} is {_kind(facts.st_mode)}, not a file", hint="choose a file")
    try:
        with os.fdopen(handle, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)  # the size that `fstat` gives may not hold
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        size = format_bytes(max(facts.st_size, len(data)))
        raise InputError(
            f"{shown} is too large: {size}, and {format_bytes(MAX_BYTES)} is the most",
            hint="cut out the part that the question is about",
        )
    return data


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _decode(data: bytes, name: str) -> str:
    mark, encoding = next(((m, e) for m, e in _BOMS if data.startswith(m)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not text: byte {error.start + len(mark)} is not {encoding.upper()}",
            hint="convert it to UTF-8, or choose a text file",
        ) from error
    if "\0" in text:
        raise InputError(f"{name} is not text: it holds zero bytes", hint="choose a text file")
    return clean_paste(text)
