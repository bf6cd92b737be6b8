"""Examples of the understanding tasks: the tokens of a text, and behind them what is to be said.

That is one class, a tag for each token, or the tokens of another text. It stands where a data set
keeps tokens, marked as learnt, so that all tasks share one way onto the disk and back. It knows
neither files nor losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.heads.model import text_tokenizer
from edgekit.entities import tags_of
from edgekit.errors import InputError
from edgekit.task import TaskKind
from edgekit.train.configuration import TooLong
from edgekit.train.dataset import Part
from edgekit.train.examples import Example
from edgekit.train.heads.records import Labelled, Pair, Tagged
from edgekit.train.records import Record


@dataclass(frozen=True, slots=True)
class Asked:
    """One example, taken apart: int64 `token_ids` [length], and what is to be said of them:
    int64 `answer`, [1] for a class, [length] for tags, [target length] for a text."""

    token_ids: NDArray[np.int64]
    answer: NDArray[np.int64]


def asked(part: Part, index: int) -> Asked:
    """Return the example `index` of `part`."""
    values, is_answer = part.example(index)
    return Asked(values[~is_answer], values[is_answer])


def text_lengths(kind: TaskKind, part: Part) -> list[int]:
    """Return how many tokens the model reads, and writes, in each example of `part`."""
    if kind == "pairs":
        return list(part.lengths)
    return [length - targets for length, targets in zip(part.lengths, part.targets, strict=True)]


class HeadEncoder:
    """Makes examples of records, with the tokenizer's own tokens at the ends of a text."""

    def __init__(
        self, checkpoint: Checkpoint, labels: Sequence[str], context: int, too_long: TooLong
    ) -> None:
        """`labels` are the names of the outputs: for entities their tags, for pairs none.

        `context` is the most tokens of a text. Raises InputError for a bad tokenizer, and where
        texts cannot be ended.
        """
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._context, self._too_long = context, too_long
        self._tokenizer = text_tokenizer(checkpoint)
        self._end = checkpoint.config.get("eos_token_id")
        self._path = checkpoint.path

    @property
    def unlearnt(self) -> int:
        """Return the number that stands for the tag of a token at an end, which is not learnt."""
        return len(self._numbers)

    def examples(self, record: Record) -> list[Example]:
        """Return the one example of `record`, none if it is left out. Raises InputError."""
        encoding = self._encoded(record.text, record, "text")
        if encoding is None:
            return []
        answer = self._answer(record, encoding)
        if answer is None:
            return []
        ids = tuple(encoding.ids)
        return [Example((*ids, *answer), (*[False] * len(ids), *[True] * len(answer)))]

    def _answer(self, record: Record, encoding: Any) -> Sequence[int] | None:
        match record:
            case Labelled():
                return [self._numbers[record.label]]
            case Tagged():
                tags = tags_of(encoding.offsets, record.text, record.entities)
                ends = encoding.special_tokens_mask
                return [
                    self.unlearnt if is_end else self._numbers[tag]
                    for tag, is_end in zip(tags, ends, strict=True)
                ]
            case Pair():
                return self._target(record)
        raise AssertionError(f"{record.where} is of no kind")  # pragma: no cover

    def _target(self, record: Pair) -> Sequence[int] | None:
        """Return the tokens of the text to be written, the last of which ends it."""
        encoding = self._encoded(record.target, record, "target")
        if encoding is None:
            return None
        if type(self._end) is not int:
            raise InputError(f"{self._path / 'config.json'} has no eos_token_id to end a text with")
        ids = [token for token in encoding.ids if token != self._end]
        return [*ids, self._end]

    def _encoded(self, text: str, record: Record, what: str) -> Any:
        """Return the encoding of `text`; None if it is too long, and to be skipped."""
        found = self._tokenizer.encode(text)
        if len(found.ids) <= self._context and found.ids:
            return found
        if not found.ids:
            raise InputError(f"{record.where}: the tokenizer makes no token of its {what}")
        if self._too_long == "error":
            raise InputError(
                f"{record.where}: the {what} has {len(found.ids)} tokens, "
                f"the window {self._context}",
                hint='raise [data] context, or set too_long = "skip" or "cut"',
            )
        if self._too_long == "skip":
            return None
        self._tokenizer.enable_truncation(self._context)  # the tokens at the ends stay
        try:
            return self._tokenizer.encode(text)
        finally:
            self._tokenizer.no_truncation()
