"""A table of a TOML file, from which typed values are taken: every complaint names its place.

It knows no sections and no keys; paths are relative to the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from converters.schemes import unknown
from edgekit.errors import InputError

MAX_BYTES = 1 << 20
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True)
class Table:
    """One section: takes typed values out of it, and names the place in every complaint."""

    path: Path
    source: str
    name: str
    values: dict[str, Any]

    def has(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, what: str) -> InputError:
        name = f"[{self.name}] {key}".rstrip()
        return InputError(f"{place(self.path, self.source, self.name, key)}: {name} {what}")

    def text(self, key: str) -> str:
        found = self.optional_text(key)
        if found is None:
            raise self.error(key, "is missing")
        return found

    def optional_text(self, key: str) -> str | None:
        value = self.values.get(key)
        if key in self.values and (not isinstance(value, str) or not value):
            raise self.error(key, f"is {value!r:.60}, not a text")
        return value

    def choice(self, key: str, known: Sequence[Choice], default: Choice | None = None) -> Choice:
        if key not in self.values and default is not None:
            return default
        value = self.text(key)
        for name in known:
            if value == name:
                return name
        where = place(self.path, self.source, self.name, key)
        raise unknown(f"[{self.name}] {key}", value, known, where)

    def whole(
        self, key: str, default: int | None, *, least: int, most: int = 1 << 31
    ) -> int | None:
        value = self.values.get(key, default)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise self.error(key, f"is {value!r:.60}, not a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: Any, *, most: float = math.inf) -> Any:
        """Return a number above 0 and at most `most`, or `default`."""
        value = self.values.get(key, default)
        if key in self.values and not (
            type(value) in (int, float) and 0 < value <= most and math.isfinite(value)
        ):
            limit = "" if most == math.inf else f" and at most {most:g}"
            raise self.error(key, f"is {value!r:.60}, not a number above 0{limit}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.error(key, f"is {value!r:.60}, not true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, none of them empty; nothing if the key is absent."""
        values = self.values.get(key, [])
        listed = isinstance(values, list) and all(isinstance(v, str) and v for v in values)
        if not listed or (key in self.values and not values):
            raise self.error(key, f"is {values!r:.60}, not a list of texts")
        return tuple(values)

    def files(self, key: str, *, required: bool = False) -> tuple[Path, ...]:
        names = self.values.get(key, [])
        listed = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
        if not listed or (required and not names):
            what = f"is {names!r:.60}, not" if key in self.values else "is missing: give"
            raise self.error(key, f'{what} a list of files, such as ["chats.jsonl"]')
        paths = tuple(self._file(key, name) for name in names)
        if len(set(paths)) != len(paths):
            raise self.error(key, "names a file twice")
        return paths

    def folder(self, key: str) -> Path | None:
        """Return a folder, which need not exist, or None where none is named."""
        name = self.optional_text(key)
        try:
            path = None if name is None else self.path.parent / Path(name).expanduser()
            if path is None or path.is_dir() or not path.exists():
                return path
        except (OSError, RuntimeError):  # a name that is too long, a user that there is not
            pass
        raise self.error(key, f"is {name!r:.200}, which cannot be a folder")

    def _file(self, key: str, name: str) -> Path:
        try:
            path = self.path.parent / Path(name).expanduser()
            if path.is_file():
                return path
        except (OSError, RuntimeError):  # a name that is too long, a user that there is not
            pass
        raise self.error(key, f"names {name:.200}, which is not a file")


def place(path: Path, text: str, section: str, key: str) -> str:
    """Return the file, and the line of `key` in `section` where a look at the text tells it.

    That of the section if the key is missing; `section` "" looks among the sections themselves.
    tomllib gives no lines but for bad syntax. A text over several lines could look like a key, so
    a file with one gets no numbers.
    """
    if '"""' in text or "'''" in text:
        return str(path)
    current, begin = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*[\"']?([^\]\"']+?)[\"']?\s*\]", line)
        entry = re.match(r"\s*[\"']?([^\"'=\[#]+?)[\"']?\s*=", line)
        if header is not None:
            current = header.group(1)
            begin = number if not begin and current == (section or key) else begin
        elif entry is not None and (current, entry.group(1)) == (section, key):
            return f"{path}, line {number}"
    return f"{path}, line {begin}" if begin else str(path)


def read_toml(path: Path) -> str:
    """Return the text of the file `path`. Raises InputError where it cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, too many to be read")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
