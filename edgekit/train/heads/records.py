"""Records of the understanding tasks, one a line of a JSONL file, each checked. It knows no tokens.

A record's `content` is its text alone: by that it is held out, so that a text is never on both
sides of the split, whatever its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgekit.entities import Entity
from edgekit.errors import InputError
from edgekit.task import MAX_LABELS, TaskKind
from edgekit.train.records import Record, checked_text, place_of, read_documents

MAX_LABEL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Labelled(Record):
    """A text of a class."""

    label: str


@dataclass(frozen=True, slots=True)
class Tagged(Record):
    """A text with entities, which do not overlap and are in their order."""

    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True)
class Pair(Record):
    """A text, and the one that is to be made of it."""

    target: str


def reader_of(kind: TaskKind) -> Callable[[Path], Iterator[Record]]:
    """Return the function that yields the records of a file; it raises InputError."""
    match kind:
        case "classes":
            return read_classes
        case "entities":
            return read_entities
        case "pairs":
            return read_pairs


def read_classes(file: Path) -> Iterator[Labelled]:
    """Yield `{"text": ..., "label": ...}` records. Raises InputError at the first bad line."""
    for line, document in _documents(file, ("text", "label")):
        where = place_of(file, line)
        text = checked_text(document, "text", where)
        yield Labelled(file, line, text, _label(document, f"{where}:"))


def read_entities(file: Path) -> Iterator[Tagged]:
    """Yield `{"text": ..., "entities": [{"start", "end", "label"}]}` records. Raises InputError."""
    for line, document in _documents(file, ("text", "entities")):
        where = place_of(file, line)
        text = checked_text(document, "text", where)
        found = document.get("entities")
        if not isinstance(found, list):
            shown = f"{found!r:.60}" if "entities" in document else "missing"
            raise InputError(f"{where}: 'entities' is {shown}, not a list")
        entities = [_entity(e, text, f"{where}: entity {n}") for n, e in enumerate(found, 1)]
        yield Tagged(file, line, text, _in_order(entities, where))


def read_pairs(file: Path) -> Iterator[Pair]:
    """Yield `{"source": ..., "target": ...}` records. Raises InputError at the first bad line."""
    for line, document in _documents(file, ("source", "target")):
        where = place_of(file, line)
        source = checked_text(document, "source", where)
        yield Pair(file, line, source, checked_text(document, "target", where))


def find_labels(kind: TaskKind, files: Sequence[Path]) -> list[str]:
    """Return the labels of all records in sorted order; none for "pairs".

    Raises InputError for the first bad record, and where there are too few or too many labels.
    """
    if kind == "pairs":
        return []
    found: set[str] = set()
    for file in files:
        for record in reader_of(kind)(file):
            if isinstance(record, Labelled):
                found.add(record.label)
            elif isinstance(record, Tagged):
                found |= {entity.label for entity in record.entities}
            if len(found) > MAX_LABELS // 2:
                raise InputError(
                    f"{record.where}: more than {MAX_LABELS // 2} different labels up to here",
                    hint="a label is one of a few; is this the right key?",
                )
    if len(found) < (2 if kind == "classes" else 1):
        what = f"only the label {min(found)!r}" if found else "no entity"
        raise InputError(f"{', '.join(map(str, files))}: the records have {what}: nothing to tell")
    return sorted(found)


def _documents(file: Path, known: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, document in read_documents(file, *known):
        for key in document:
            if key not in known:
                raise InputError(
                    f"{place_of(file, line)} has the key {key!r:.60}: "
                    f"only {' and '.join(known)} are known"
                )
        yield line, document


def _entity(value: Any, text: str, where: str) -> Entity:
    if not isinstance(value, dict) or set(value) != {"start", "end", "label"}:
        raise InputError(f"{where} is {value!r:.60}, not an object with start, end and label")
    start, end = value["start"], value["end"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise InputError(
            f"{where} goes from {start!r:.20} to {end!r:.20}, which is no part of the "
            f"{len(text)} characters of its text"
        )
    if not text[start:end].strip():
        raise InputError(f"{where} holds nothing but white space")
    return Entity(start, end, _label(value, f"{where}:"))


def _label(values: dict[str, Any], where: str) -> str:
    label = values.get("label")
    is_text = isinstance(label, str) and label == label.strip() and label.isprintable()
    if not is_text or not 1 <= len(str(label)) <= MAX_LABEL_CHARACTERS:
        shown = f"{label!r:.60}" if "label" in values else "missing"
        raise InputError(f"{where} 'label' is {shown}, not a short text")
    return str(label)


def _in_order(entities: Sequence[Entity], where: str) -> tuple[Entity, ...]:
    ordered = sorted(entities, key=lambda entity: entity.start)
    for left, right in pairwise(ordered):
        if right.start < left.end:
            raise InputError(
                f"{where}: the entities from {left.start} to {left.end} and from {right.start} to "
                f"{right.end} overlap"
            )
    return tuple(ordered)
