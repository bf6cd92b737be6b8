"""Entities: spans of a text with a label, and the tags of its tokens that stand for them.

Tags are those of Ramshaw and Marcus 1995, "Text chunking using transformation-based learning",
in the form that is called BIO: B- begins an entity, I- goes on with it, O is outside. Shared by
the trainer and the runtime, so that both mean the same. It knows no tokenizer and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = "O"

Offsets = tuple[int, int]
"""Where a token begins and ends in its text, in characters; equal for tokens that have no text."""


@dataclass(frozen=True, slots=True)
class Entity:
    """The characters from `start` up to, without, `end`; what they are."""

    start: int
    end: int
    label: str


def tag_names(labels: Sequence[str]) -> list[str]:
    """Return the tags for entities with these labels: O, then B- and I- of each."""
    return [OUTSIDE, *(f"{part}-{label}" for label in labels for part in "BI")]


def tags_of(offsets: Sequence[Offsets], text: str, entities: Sequence[Entity]) -> list[str]:
    """Return the tag of each token. One that has a character of an entity is a part of it.

    `entities` do not overlap and are in their order.
    """
    tags, current, begun = [], 0, False
    for begin, end in (trimmed(text, *offset) for offset in offsets):
        while current < len(entities) and entities[current].end <= begin:
            current, begun = current + 1, False
        inside = current < len(entities) and begin < end and end > entities[current].start
        tags.append(f"{'I' if begun else 'B'}-{entities[current].label}" if inside else OUTSIDE)
        begun = begun or inside
    return tags


def spans_of(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that `tags` stand for; `start` and `end` count tokens.

    An I- that goes on with nothing begins an entity, as in conlleval of CoNLL-2000.
    """
    found: list[Entity] = []
    current: tuple[int, str] | None = None
    for place, tag in enumerate([*tags, OUTSIDE]):
        part, dash, label = tag.partition("-")
        label = label if dash and part in ("B", "I") else "" if tag == OUTSIDE else tag
        goes_on = current is not None and part != "B" and label == current[1]
        if current is not None and not goes_on:
            found.append(Entity(current[0], place, current[1]))
            current = None
        if label and current is None:
            current = (place, label)
    return found


def trimmed(text: str, begin: int, end: int) -> Offsets:
    """Return the offsets without white space at either end: some tokenizers count it in."""
    piece = text[begin:end]
    left = len(piece) - len(piece.lstrip())
    return begin + left, begin + left + len(piece.strip())
