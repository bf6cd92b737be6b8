"""How a calibration text begins: the openings of `texts/seeds.json` as token ids, by kind.

Chats are written as the checkpoint's own chat template writes them, turn by turn. It knows
nothing of how they go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.reference import Passage, encode, load_tokenizer, render_dialogues
from edgekit.errors import InputError

SEEDS = Path(__file__).parent / "texts" / "seeds.json"
ANSWER = "ANSWER-OF-THE-MODEL"  # stands in a rendered chat where the model will have answered


@dataclass(frozen=True, slots=True)
class Opening:
    """The beginning of a text of one kind, in token ids.

    `pieces`: the first begins the text; each further one, a chat's next question, follows where
    the model has ended its answer. None is empty.
    """

    kind: str
    pieces: tuple[tuple[int, ...], ...]


def read_openings(checkpoint: Checkpoint) -> list[Opening]:
    """Return every opening of which the checkpoint's vocabulary knows a token. Raises InputError.

    Without a chat template, questions are texts like others.
    """
    seeds: dict[str, list[Any]] = json.loads(SEEDS.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(checkpoint)
    found = []
    for kind, openings in seeds.items():
        for opening in openings:
            texts, special = _texts(checkpoint, opening)
            pieces = (encode(tokenizer, Passage(kind, text, special)) for text in texts)
            known = tuple(tuple(piece) for piece in pieces if piece)
            if known:  # a tiny vocabulary may know none of a script's characters
                found.append(Opening(kind, known))
    if not found:
        raise InputError(f"the vocabulary of {checkpoint.path} knows no character of any opening")
    return found


def _texts(checkpoint: Checkpoint, opening: str | dict[str, Any]) -> tuple[list[str], bool]:
    """Return the pieces of an opening as text, and whether special tokens in them count."""
    if isinstance(opening, str):
        return [opening], False
    if not checkpoint.chat_template:
        return opening["user"], False
    return list(_rendered(checkpoint, opening["user"], opening.get("system"))), True


def _rendered(
    checkpoint: Checkpoint, questions: Sequence[str], system: str | None
) -> Iterator[str]:
    """Yield a chat up to the first answer, then what comes between each answer and the next."""
    for count in range(1, len(questions) + 1):
        messages = [{"role": "system", "content": system}] if system else []
        for question in questions[:count]:
            messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": ANSWER},
            ]
        text = _render(checkpoint, messages[:-1])
        if count == 1:
            yield text
        elif ANSWER in text:  # a template may drop earlier answers
            yield text.rpartition(ANSWER)[2]


def _render(checkpoint: Checkpoint, messages: list[dict[str, str]]) -> str:
    import jinja2

    try:
        return render_dialogues(checkpoint, [messages], prompt=True)[0]
    except jinja2.TemplateError:
        if messages[0]["role"] != "system":
            raise
    # Some templates refuse system messages: what such a model is told goes before the question.
    system, user, *rest = messages
    content = f"{system['content']}\n\n{user['content']}"
    return render_dialogues(checkpoint, [[{**user, "content": content}, *rest]], prompt=True)[0]
