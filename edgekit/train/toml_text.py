"""Values put into a TOML text, its comments kept. It knows no configuration.

A line is edited where that says what it should; what was edited is parsed again and compared, and a
text that is written in an unusual way is written anew, without its comments.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

SCALAR = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"'\[{][^\s#]*)"""


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return the TOML `text` with each dotted key, `section.key`, set to its value."""
    wanted = tomllib.loads(text)
    edited = text if text.endswith("\n") or not text else text + "\n"
    for name, value in values.items():
        section, _, key = name.partition(".")
        wanted.setdefault(section, {})[key] = value
        edited = _edited(edited, section, key, _scalar(value))
    return edited if _says(edited, wanted) else as_toml(wanted)


def as_toml(document: Mapping[str, Any]) -> str:
    """Return `document`, as `tomllib` reads one, as a TOML text: a section for each table."""
    lines = [f"{_key(k)} = {_scalar(v)}\n" for k, v in document.items() if not isinstance(v, dict)]
    for name, table in document.items():
        if isinstance(table, dict):
            inner = "".join(f"{_key(key)} = {_scalar(value)}\n" for key, value in table.items())
            lines.append(f"\n[{_key(name)}]\n{inner}")
    return "".join(lines).lstrip("\n")


def _edited(text: str, section: str, key: str, value: str) -> str:
    """Return `text` with the line of `key` changed, or with a new one below the section's head."""
    head, end = _section(text, section)
    line = re.compile(rf"""^([ \t]*["']?{re.escape(key)}["']?[ \t]*=[ \t]*){SCALAR}""", re.M)
    found = line.search(text, head, end)
    if found is not None:
        return f"{text[: found.end(1)]}{value}{text[found.end() :]}"
    return f"{text[:head]}{key} = {value}\n{text[head:]}"


def _section(text: str, section: str) -> tuple[int, int]:
    """Return where the lines below the head of `section` begin and end."""
    head = re.search(rf"^[ \t]*\[[ \t]*{re.escape(section)}[ \t]*\].*\n", text, re.M)
    begin = head.end() if head is not None else len(text)
    following = re.compile(r"^[ \t]*\[", re.M).search(text, begin)
    return begin, following.start() if following is not None else len(text)


def _says(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _scalar(value: Any) -> str:
    """Return `value` as it stands behind an equals sign."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()  # truths are written small, and so may be 1E-5, inf and nan


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _scalar(name)
