"""What things are called: names to show, and what a typed name or number stands for. Text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from edgekit.errors import UsageError
from tui.clean import clean_line

if TYPE_CHECKING:
    from runtimes.base import Sampling
    from tui.conversation import Chat

SEPARATOR = " · "
Item = TypeVar("Item")


def model_name(model: str) -> str:
    """Return the name to show for `model`: of one that was given by its path, the folder's."""
    line = clean_line(model)
    return PurePath(line).name or line


def heading(chat: Chat, usual: Sampling) -> str:
    """Return the title of `chat`, and what is special about it.

    That is its persona, or that it has a system prompt, and each sampling value that is not the
    one of `usual`.
    """
    special = f"persona {chat.persona}" if chat.persona else "system prompt" * bool(chat.system)
    parts = [chat.title, special]
    if chat.sampling is not None:
        values = [(f.name, getattr(chat.sampling, f.name)) for f in fields(usual)]
        parts += [f"{name} {value}" for name, value in values if value != getattr(usual, name)]
    return clean_line(SEPARATOR.join(part for part in parts if part))


def pick(number: str, items: Sequence[Item], kind: str) -> Item:
    """Return the item with this number, from 1 on. Raises UsageError that says how many."""
    if not items:
        raise UsageError(f"there is no {kind}")
    if not number.isdecimal() or not 1 <= int(number) <= len(items):
        shown = clean_line(number)
        raise UsageError(f"'{shown}' is not the number of a {kind}: there are 1 to {len(items)}")
    return items[int(number) - 1]


def named(name: str, items: dict[str, Item], kind: str) -> Item:
    """Return the item of that name, or of that number in the list. Raises UsageError."""
    if name in items:
        return items[name]
    if name.isdecimal():
        return pick(name, list(items.values()), kind)
    known = ", ".join(map(clean_line, items)) or "none yet"
    raise UsageError(f"there is no {kind} '{clean_line(name)}'", hint=f"there is: {known}")
