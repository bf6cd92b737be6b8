"""Records: what is stored, as bytes. JSON, so that a plain store can be read without edgekit.

Decoding is strict: every field is checked, because the bytes may come from anyone. Each record
names its kind and its chat, so that what is left of a damaged store can be put in order. Knows
nothing of sealing or databases.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar, get_args

from runtimes.base import Sampling
from tui.conversation import Answer, Attachment, Chat, Ending, Entry, Persona, Question
from tui.store.sealing import TAG_BYTES, DamagedError

Ledger = dict[int, bytes]
"""The rows that a record vouches for: row number -> tag of what is stored there."""

_LINE = struct.Struct(f"<q{TAG_BYTES}s")


@dataclass(frozen=True, slots=True)
class Root:
    """The record that lists all others but the entries."""

    ledger: Ledger = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """A chat's facts and the list of its entries."""

    chat: Chat
    ledger: Ledger = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """A question or an answer of a chat."""

    chat_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Note:
    """A small value with a name: the chat that was open, a draft."""

    name: str
    value: str


Record = Root | ChatRecord | EntryRecord | Persona | Note


def place_of(record: Record) -> tuple[str, ...]:
    """Return the words that name a record: its row number is made from them."""
    match record:
        case Root():
            return ("root",)
        case ChatRecord():
            return ("chat", record.chat.id)
        case EntryRecord():
            return ("entry", record.chat_id, record.entry.id)
        case Persona():
            return ("persona", record.name)
        case Note():
            return ("note", record.name)


def encode(record: Record) -> bytes:
    """Return a record as bytes: one line of JSON, then its ledger in binary."""
    match record:
        case Root(ledger):
            return _line({"kind": "root"}, ledger)
        case ChatRecord(chat, ledger):
            return _line({"kind": "chat", **asdict(chat)}, ledger)
        case EntryRecord(chat_id, entry):
            kind = "question" if isinstance(entry, Question) else "answer"
            return _line({"kind": kind, "chat": chat_id, **asdict(entry)})
        case Persona() | Note():
            return _line({"kind": type(record).__name__.lower(), **asdict(record)})


def _line(values: dict[str, Any], ledger: Mapping[int, bytes] | None = None) -> bytes:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    packed = b"".join(_LINE.pack(row, tag) for row, tag in (ledger or {}).items())
    line = json.dumps(finite, separators=(",", ":"), ensure_ascii=False)
    # A terminal may send half a surrogate pair, which UTF-8 proper cannot hold.
    return line.encode("utf-8", "surrogatepass") + b"\n" + packed


_WRONG = (ValueError, TypeError, OverflowError, RecursionError, KeyError, struct.error)


def decode(data: bytes) -> Record:
    """Return the record that `encode` wrote. Raises DamagedError for anything else."""
    try:
        values, packed = _values(data)
        return _record(values.pop("kind", None), values, packed)
    except _WRONG as error:
        raise DamagedError(f"it cannot be read: {error}") from error


def searchable(data: bytes) -> tuple[str, float, str]:
    """Return the id, the time and all text of an entry; half the work of `decode`."""
    try:
        values, _ = _values(data)
        written = values["text"]
        for file in values.get("attachments", ()):
            written += f"\n{_text(file['name'])}\n{_text(file['text'])}"
        return _text(values["id"]), float(values["at"]), _text(written)
    except _WRONG as error:
        raise DamagedError(f"it cannot be read: {error}") from error


def _values(data: bytes) -> tuple[dict[str, Any], bytes]:
    line, _, packed = data.partition(b"\n")
    values = json.loads(line.decode("utf-8", "surrogatepass"))
    if not isinstance(values, dict):
        raise DamagedError("it is no record")
    return values, packed


def _record(kind: object, values: dict[str, Any], packed: bytes) -> Record:
    match kind:
        case "root":
            return Root(_ledger(packed))
        case "chat":
            if (sampling := values.get("sampling")) is not None:
                sampling["stop"] = tuple(sampling["stop"])
                values["sampling"] = _build(Sampling, sampling)
            return ChatRecord(_build(Chat, values), _ledger(packed))
        case "question":
            chat_id = _text(values.pop("chat"))
            files = values.pop("attachments")
            values["attachments"] = tuple(_build(Attachment, file) for file in files)
            return EntryRecord(chat_id, _build(Question, values))
        case "answer":
            return EntryRecord(_text(values.pop("chat")), _build(Answer, values))
        case "persona":
            return _build(Persona, values)
        case "note":
            return _build(Note, values)
    raise DamagedError("it is of no known kind")


def _ledger(packed: bytes) -> Ledger:
    return dict(_LINE.iter_unpack(packed))


_Data = TypeVar("_Data", Chat, Sampling, Attachment, Question, Answer, Persona, Note)


def _build(kind: type[_Data], values: object) -> _Data:
    """Return a dataclass from `values`, each checked. Raises TypeError or ValueError."""
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__} is no object")
    checks = _CHECKS[kind]
    for name, value in values.items():
        if not checks[name](value):
            raise ValueError(f"{kind.__name__}.{name} has a wrong value")
    return kind(**values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("an id is no text")
    return value


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


_ENDINGS = frozenset(get_args(Ending))
# What a field's type, as it is written in its class, lets through. A bool is no int here.
_BY_TYPE: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "bool": lambda value: isinstance(value, bool),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "Ending": lambda value: isinstance(value, str) and value in _ENDINGS,
    "tuple[str, ...]": lambda value: all(isinstance(item, str) for item in value),
    "tuple[Attachment, ...]": lambda value: isinstance(value, tuple),
    "Sampling | None": lambda value: value is None or isinstance(value, Sampling),
}
_CHECKS = {
    kind: {part.name: _BY_TYPE[str(part.type)] for part in fields(kind)}
    for kind in (Chat, Sampling, Attachment, Question, Answer, Persona, Note)
}
