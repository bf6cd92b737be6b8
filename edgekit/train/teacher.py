"""The teacher: the original model, asked in the student's tokens.

A student whose vocabulary was pruned has fewer tokens, numbered anew. The teacher then answers
as if it had only those. It knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.lineage import Stage, read_stage
from converters.reference import load_model, load_tokenizer
from edgekit.errors import InputError
from edgekit.train.hardware import Hardware

if TYPE_CHECKING:
    import torch

MOST_ANCESTORS = 64


class Teacher:
    """`original` in float32 or, where `hardware` has it, bfloat16; loaded at the first question.

    `kept` has, for each of the student's tokens, its id in the original; None if all are the same.
    """

    def __init__(
        self, original: Checkpoint, kept: Sequence[int] | None, hardware: Hardware
    ) -> None:
        self._original, self._kept, self._hardware = original, kept, hardware

    @cached_property
    def model(self) -> Any:
        """Return the original, loaded."""
        return load_model(self._original).to(self._hardware.device)

    @cached_property
    def _ids(self) -> torch.Tensor | None:
        import torch

        return None if self._kept is None else torch.tensor(self._kept)

    def logits(
        self, token_ids: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits, float32 [windows, length, the student's vocabulary].

        `token_ids`, int64 [windows, length], are the student's; where `position_ids` begin anew in
        a window, so does the text.
        """
        import torch

        ids = token_ids if self._ids is None else self._ids[token_ids]
        with torch.inference_mode(), self._hardware.autocast():
            logits: torch.Tensor = self.model(
                ids.to(self._hardware.device), position_ids=position_ids, use_cache=False
            ).logits
        if self._ids is not None:
            logits = logits[..., self._ids.to(logits.device)]
        return logits.float()

    def logits_of(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits of one window, float32 [length, the student's vocabulary]."""
        import torch

        array: NDArray[np.float32] = self.logits(torch.tensor([list(token_ids)]))[0].cpu().numpy()
        return array


def original_of(student: Checkpoint) -> Checkpoint:
    """Return the checkpoint that `student` descends from and that descends from none itself.

    Raises InputError where the record of a stage is missing, or its parent was moved or changed.
    """
    ancestors = list(_ancestors(student))
    if not ancestors:
        raise InputError(
            f"{student.path} does not say what it was pruned from",
            hint="name the unpruned checkpoint with --from",
        )
    return ancestors[-1]


def stages_since(student: Checkpoint, original: Checkpoint) -> list[Stage] | None:
    """Return the stages that lead from `original` to `student`, in that order.

    None if the records, or the folders that they name, do not lead there.
    """
    stages: list[Stage] = []
    try:
        for checkpoint in chain([student], _ancestors(student)):
            if checkpoint.digest() == original.digest():
                return stages
            stage = read_stage(checkpoint)
            if stage is None:
                return None
            stages.insert(0, stage)
            if stage.parent_digest == original.digest():  # which may have moved since
                return stages
    except InputError:
        pass
    return None


def kept_token_ids(student: Checkpoint, original: Checkpoint) -> tuple[int, ...] | None:
    """Return, for each token of `student`, its id in `original`; None if the ids are the same.

    Tokens are the same if their texts are. Raises InputError for a token that has no text, or one
    that the original does not know.
    """
    size = _vocabulary_size(student)
    ours, theirs = (load_tokenizer(checkpoint).get_vocab() for checkpoint in (student, original))
    if ours == theirs and size == _vocabulary_size(original):
        return None
    texts = {token_id: text for text, token_id in ours.items()}
    strange = [i for i in range(size) if texts.get(i) not in theirs]
    if strange:
        raise InputError(
            f"{len(strange)} of the {size} tokens of {student.path} are not those of "
            f"{original.path}, such as token {strange[0]} ({texts.get(strange[0])!r:.40})",
            hint="name the checkpoint that it was pruned from",
        )
    return tuple(theirs[texts[i]] for i in range(size))


def _ancestors(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """Yield the parent of `checkpoint`, its parent, and so on up to the original."""
    for _ in range(MOST_ANCESTORS):
        stage = read_stage(checkpoint)
        if stage is None or stage.kind == "trained":  # which is an original of its own
            return
        checkpoint = _parent(checkpoint, Path(stage.parent), stage.parent_digest)
        yield checkpoint
    raise InputError(f"{checkpoint.path} has more than {MOST_ANCESTORS} ancestors")


def _parent(child: Checkpoint, path: Path, digest: str) -> Checkpoint:
    hint = "name the unpruned checkpoint with --from"
    if not path.is_dir():
        raise InputError(f"{child.path} was made from {path}, which is not there", hint)
    parent = Checkpoint.open(path)
    if parent.digest() != digest:
        raise InputError(f"{path} has changed since {child.path} was made from it", hint)
    return parent


def _vocabulary_size(checkpoint: Checkpoint) -> int:
    size = checkpoint.config.get("vocab_size")
    if type(size) is not int or size < 1:
        raise InputError(f"{checkpoint.path / 'config.json'} has no vocab_size")
    return size
