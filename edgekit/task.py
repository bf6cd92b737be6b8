"""Task: what an artifact does that is no chat: name a class, find entities, or rewrite a text.

It is part of a manifest, and comes from outside as that does: every field is checked.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from edgekit.errors import InputError, UsageError
from edgekit.fields import Fields

TaskKind = Literal["classes", "entities", "pairs"]
TASK_KINDS: tuple[str, ...] = get_args(TaskKind)
MAX_LABELS = 1000
IN_WORDS: dict[TaskKind, str] = {
    "classes": "says of which class a text is",
    "entities": "finds the entities in a text",
    "pairs": "makes another text of a text",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What the model was trained for, by the kind of its training data.

    `labels` are the names of the outputs, in their order: classes, or the tags of entities such as
    `B-PERSON`; none for "pairs". For those `decoder` is the file of the decoder, beside the
    encoder, and `start_token_id` the token that every answer begins behind.
    """

    kind: TaskKind
    labels: list[str] = field(default_factory=list)
    decoder: str | None = None
    start_token_id: int | None = None


def read_task(fields: Fields, files: Collection[str], vocabulary_size: int) -> Task:
    """Return the task in a manifest with these `files`. Raises InputError."""
    kind = fields.take("kind", str)
    if kind not in TASK_KINDS:
        raise InputError(f"{fields.where}: 'kind' is {kind!r:.60}, known are {TASK_KINDS}")
    labels = fields.take("labels", list)
    decoder, start = fields.take("decoder", (str, type(None))), None
    if kind == "pairs":
        start = fields.count("start_token_id")
        if decoder not in files or start >= vocabulary_size:
            raise InputError(
                f"{fields.where}: 'decoder' is {decoder!r:.60} and 'start_token_id' {start}: no "
                f"file of the artifact, or no token below {vocabulary_size}"
            )
    else:
        check_labels(labels, f"{fields.where}: 'labels'")
    return Task(cast("TaskKind", kind), labels, decoder, start)


def check_labels(labels: list[object], where: str) -> None:
    """Raise InputError unless `labels` are two or more different texts, and not too many."""
    if not all(isinstance(label, str) and label for label in labels):
        raise InputError(f"{where}: every label should be a text that is not empty")
    if not 2 <= len(labels) <= MAX_LABELS or len(set(labels)) != len(labels):
        raise InputError(f"{where}: {len(labels)} labels, not 2 to {MAX_LABELS} different ones")


def require_chat(name: str, task: Task | None) -> None:
    """Raise UsageError if the artifact `name` with this `task` is no model to chat with."""
    if task is not None:
        raise UsageError(
            f"{name} is no model to talk to: it {IN_WORDS[task.kind]}",
            hint=f'use it with edgekit run {name} "a text"',
        )
