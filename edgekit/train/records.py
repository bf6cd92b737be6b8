"""Records: what a data file holds, one by one, each with its line. Every record is checked.

A JSONL file has a record a line, a Parquet file one a row. A plain text file is cut at blank lines
into passages. Files are read as a stream: one record is in memory at a time. It knows no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.train.parquet import is_parquet, parquet_rows

ROLES = ("system", "user", "assistant")
LINES = (".jsonl", ".ndjson", ".json")
MAX_RECORD_BYTES = 16 << 20
PASSAGE_BYTES = 2000  # a passage ends at the first blank line from here on
LONGEST_PASSAGE_BYTES = 1 << 20  # or at the end of a line from here on

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation or one text, and the line (or row) of `file` where it begins, from 1.

    `content` is a list of messages with "role" and "content", or a text.
    """

    file: Path
    line: int
    content: list[Message] | str

    @property
    def where(self) -> str:
        """Return the place as it stands in a complaint."""
        return place_of(self.file, self.line)

    @property
    def text(self) -> str:
        """Return all words of the record, a message a paragraph."""
        if isinstance(self.content, str):
            return self.content
        return _words(self.content)

    @property
    def prompt(self) -> str | None:
        """Return what alone decides on which side of the split it lies; None: all its words."""
        return None


@dataclass(frozen=True, slots=True)
class Preference(Record):
    """A prompt, its `content`, whose last message is the user's; and two answers to it."""

    content: list[Message]
    chosen: str
    rejected: str

    @property
    def text(self) -> str:
        """Return all words of the record, a message a paragraph."""
        answers = [{"role": "assistant", "content": a} for a in (self.chosen, self.rejected)]
        return _words([*self.content, *answers])

    @property
    def prompt(self) -> str:
        """Return the prompt: pairs of one prompt must not lie on both sides."""
        return _words(self.content)


def unit(file: Path) -> str:
    """Return what the records of `file` are counted in: "line" or "row"."""
    return "row" if is_parquet(file) else "line"


def place_of(file: Path, number: int) -> str:
    """Return a record's place as it stands in a complaint."""
    return f"{file}, {unit(file)} {number}"


def read_chats(file: Path) -> Iterator[Record]:
    """Yield the conversations of a JSONL or Parquet file. Raises InputError at the first bad."""
    for line, document in _documents(file, "messages"):
        yield Record(file, line, _messages(document, place_of(file, line)))


def read_preferences(file: Path) -> Iterator[Preference]:
    """Yield the pairs of answers of a JSONL or Parquet file. Raises InputError at the first bad."""
    for line, document in _documents(file, "messages", "chosen", "rejected"):
        where = place_of(file, line)
        messages = _all_messages(document, where)
        if messages[-1]["role"] != "user":
            raise InputError(
                f"{where}: the last message is the {messages[-1]['role']}'s, not the user's",
                hint="the answers stand under 'chosen' and 'rejected'",
            )
        chosen, rejected = (_answer(document, key, where) for key in ("chosen", "rejected"))
        if chosen == rejected:
            raise InputError(f"{where}: 'chosen' and 'rejected' are the same text")
        yield Preference(file, line, messages, chosen, rejected)


def read_texts(file: Path) -> Iterator[Record]:
    """Yield the texts of a JSONL or Parquet file, or a text file's passages. Raises InputError."""
    if is_passages(file):
        yield from _passages(file)
        return
    for line, document in _documents(file, "text"):
        where = place_of(file, line)
        text = document.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: 'text' is {_shown(document, 'text')}, not a text")
        yield Record(file, line, _encodable(text, f"{where}: 'text'"))


def is_passages(file: Path) -> bool:
    """Return whether `file` is plain text: neither JSONL nor Parquet."""
    return file.suffix not in LINES and not is_parquet(file)


def _messages(document: dict[str, Any], where: str) -> list[Message]:
    """Return the messages up to the assistant's last: what comes after it teaches nothing."""
    messages = _all_messages(document, where)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise InputError(f"{where}: no message is the assistant's, so there is nothing to learn")
    if "user" not in roles[: roles.index("assistant")]:
        raise InputError(f"{where}: the assistant answers before the user has asked")
    return messages[: len(roles) - roles[::-1].index("assistant")]


def _all_messages(document: dict[str, Any], where: str) -> list[Message]:
    found = document.get("messages")
    if not isinstance(found, list) or not found:
        shown = _shown(document, "messages")
        raise InputError(f"{where}: 'messages' is {shown}, not a list of messages")
    return [_message(m, f"{where}: message {n}") for n, m in enumerate(found, 1)]


def _answer(document: dict[str, Any], key: str, where: str) -> str:
    answer = document.get(key)
    if not isinstance(answer, str) or not answer.strip():
        raise InputError(f"{where}: {key!r} is {_shown(document, key)}, not a text")
    return _encodable(answer, f"{where}: {key!r}")


def _words(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {value!r:.60}, not an object with role and content")
    for key in value:
        if key not in ("role", "content"):
            raise InputError(f"{where} has the key {key!r:.60}: only role and content are known")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise InputError(
            f"{where}: 'role' is {_shown(value, 'role')}, not one of {', '.join(ROLES)}"
        )
    if not isinstance(content, str) or (role == "assistant" and not content.strip()):
        raise InputError(f"{where}: 'content' is {_shown(value, 'content')}, not a text")
    return {"role": str(role), "content": _encodable(content, f"{where}: 'content'")}


def _documents(file: Path, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object of each line that is not blank, or of each row, with its number.

    Of a Parquet file it has the `columns` alone; lines have all that their writer put there.
    """
    if is_parquet(file):
        yield from parquet_rows(file, columns, MAX_RECORD_BYTES)
        return
    for number, data in _lines(file):
        if not data.strip():
            continue
        where = f"{file}, line {number}"
        try:
            document = json.loads(data)
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8: {error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"{where} is {document!r:.60}, not a JSON object")
        yield number, document


def _passages(file: Path) -> Iterator[Record]:
    first, size, kept = 1, 0, bytearray()
    for number, data in _lines(file):
        if not size and not data.strip():
            first = number + 1
            continue
        size += len(data)
        is_end = size >= LONGEST_PASSAGE_BYTES or (size >= PASSAGE_BYTES and not data.strip())
        kept += data
        if is_end:
            yield from _passage(file, first, kept)
            first, size, kept = number + 1, 0, bytearray()
    yield from _passage(file, first, kept)


def _passage(file: Path, line: int, data: bytearray) -> Iterator[Record]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = line + data.count(b"\n", 0, error.start)
        raise InputError(f"{file}, line {bad} is not UTF-8: {error.reason}") from error
    if text.strip():
        yield Record(file, line, text.strip("\r\n") + "\n")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of `file` with their numbers. Raises InputError for a huge one."""
    number = 0
    try:
        with file.open("rb") as stream:
            while data := stream.readline(MAX_RECORD_BYTES + 1):
                number += 1
                if len(data) > MAX_RECORD_BYTES:
                    raise InputError(
                        f"{file}, line {number} has more than {MAX_RECORD_BYTES} bytes",
                        hint="cut it into several records",
                    )
                yield number, data
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def _encodable(text: str, where: str) -> str:
    """Return `text`. Raises InputError for halves of surrogate pairs, which JSON lets through."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} has half a character (\\u{ord(text[error.start]):x})") from error
    return text


def _shown(values: dict[str, Any], key: str) -> str:
    return f"{values[key]!r:.60}" if key in values else "missing"


def read_documents(file: Path, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object of each line or row, with its number, for records of other kinds.

    Of a Parquet file it has the `columns`. Raises InputError at the first line that is none.
    """
    yield from _documents(file, *columns)


def checked_text(document: dict[str, Any], key: str, where: str) -> str:
    """Return the text under `key`. Raises InputError if there is none, or nothing but space."""
    text = document.get(key)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: {key!r} is {_shown(document, key)}, not a text")
    return _encodable(text, f"{where}: {key!r}")
