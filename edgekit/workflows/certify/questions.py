"""A small benchmark of answers: a few dozen questions with short answers that can be checked.

It tells whether an artifact still answers, not how good a model is: the score of the checkpoint
stands beside it. Greedy answers, and a whole answer must match after normalising.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.checkpoint import Checkpoint
from edgekit.certificate import Generation
from edgekit.files import write_atomically
from edgekit.progress import Progress
from edgekit.workflows.certify.passages import document

TOKENS = 12
CACHE_VERSION = 1
_AROUND = re.compile(r"^[\W_]+|[\W_]+$")

Prompt = Sequence[int]
Answer = Callable[[Prompt], str]
"""Answers one prompt, given as token ids, with a text."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and every answer that is right."""

    question: str
    answers: tuple[str, ...]


def questions() -> list[Question]:
    """Return the built-in questions."""
    return [Question(q["question"], tuple(q["answers"])) for q in document("questions.json")]


def is_right(question: Question, answer: str) -> bool:
    """Return whether `answer`, its first line, is one of the right ones, whatever its case."""
    return normalised(answer) in {normalised(right) for right in question.answers}


def normalised(answer: str) -> str:
    """Return the first line in lower case, one space between words, nothing around it."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    return _AROUND.sub("", " ".join(line.lower().split()))


def source_answers(
    checkpoint: Checkpoint,
    prompts: Sequence[Sequence[int]],
    answer: Answer,
    cache_folder: Path,
    progress: Progress,
) -> list[str]:
    """Return the checkpoint's answers; from `cache_folder` where they are known."""
    key = json.dumps([CACHE_VERSION, TOKENS, checkpoint.digest(), [list(p) for p in prompts]])
    file = cache_folder / f"answers-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    known = _load(file, len(prompts))
    if known is not None:
        return known
    found = []
    with progress.task("answering with the checkpoint", len(prompts), unit="answers") as advance:
        for prompt in prompts:
            found.append(answer(prompt))
            advance(1)
    write_atomically(file, json.dumps(found, ensure_ascii=False).encode())
    return found


def _load(file: Path, count: int) -> list[str] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # absent or damaged: it is only a cache
    right = isinstance(found, list) and len(found) == count
    return found if right and all(isinstance(answer, str) for answer in found) else None


def score(asked: Sequence[Question], source: Sequence[str], artifact: Sequence[str]) -> Generation:
    """Return how many answers of each side are right, and how many are the same."""
    return Generation(
        questions=len(asked),
        right_source=sum(is_right(q, a) for q, a in zip(asked, source, strict=True)),
        right_artifact=sum(is_right(q, a) for q, a in zip(asked, artifact, strict=True)),
        same_answers=sum(a.strip() == b.strip() for a, b in zip(source, artifact, strict=True)),
    )
