"""The texts that a check measures on, and those that only prove that token ids are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.reference import Passage, render_dialogues
from edgekit.errors import InputError

BUILT_IN_KINDS = ("prose", "code", "languages", "figures")
LONG = "long"
MAX_TEXT_BYTES = 64 << 20


def built_in_passages(checkpoint: Checkpoint) -> list[Passage]:
    """Return the texts that edgekit brings, and conversations if the checkpoint has a template."""
    passages = [Passage(kind, _text(f"{kind}.txt")) for kind in BUILT_IN_KINDS]
    if checkpoint.chat_template is not None:
        rendered = render_dialogues(checkpoint, dialogues(), prompt=False)
        passages += [Passage("dialogue", text, special=True) for text in rendered]
    return passages


def long_passages() -> list[Passage]:
    """Return one long text; only what is far from its beginning is measured."""
    return [Passage(LONG, _text("prose.txt") + "\n\n" + _text("code.txt"))]


def parity_passages() -> list[Passage]:
    """Return lines that tokenizers disagree on, with special tokens meant and not meant."""
    lines = _text("odd.txt").split("\n")
    return [
        Passage("odd", line, special, measured=False) for line in lines for special in (False, True)
    ]


def user_passage(path: Path) -> Passage:
    """Return the text of a file of the user's. Raises InputError."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, more than {MAX_TEXT_BYTES}")
        return Passage(path.name, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}", hint="convert the text first") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def dialogues() -> list[list[dict[str, str]]]:
    """Return the built-in conversations, as lists of role and content."""
    conversations: list[list[dict[str, str]]] = document("dialogue.json")
    return conversations


def document(name: str) -> Any:
    """Return a JSON document among the texts."""
    return json.loads(_text(name))


def _text(name: str) -> str:
    return (files("edgekit.workflows") / "texts" / name).read_text("utf-8")


def text_digest(passages: Sequence[Passage]) -> str:
    """Return one SHA-256 for all passages."""
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(f"{passage.kind}\0{passage.special}\0{passage.text}\0".encode())
    return digest.hexdigest()
