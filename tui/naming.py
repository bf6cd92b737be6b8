"""What an artifact and a chat are called on the screen. Knows text only; opens nothing."""

from __future__ import annotations

from dataclasses import fields
from pathlib import PurePath
from typing import TYPE_CHECKING

from tui.clean import clean_line

if TYPE_CHECKING:
    from runtimes.base import Sampling
    from tui.conversation import Chat

SEPARATOR = " · "


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
