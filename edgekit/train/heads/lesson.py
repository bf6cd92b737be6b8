"""The lesson of a model with a head: its class, its tags, or its text, with dropout as it has.

Judged by the loss on what is held out; the task's own measures are told beside it. It knows
neither files nor labels' names, but for those of tags.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.entities import Entity, spans_of
from edgekit.task import TaskKind
from edgekit.train.dataset import DataSet, Part
from edgekit.train.hardware import Hardware
from edgekit.train.heads.batches import UNLEARNT, Rows, logits_of, rows_of, summed_loss
from edgekit.train.heads.examples import asked, text_lengths
from edgekit.train.heads.metrics import (
    LOSS,
    PREFIX,
    class_figures,
    entity_figures,
    text_figures,
)
from edgekit.train.order import blocks

if TYPE_CHECKING:
    import torch

TOKENS_AT_ONCE = 1 << 14  # of a forward pass that makes few logits a token
MOST_WRITTEN = 200  # held-out texts that the model writes each time that it is judged
SLACK = 1.5  # how much longer than the longest of them a text may become


@dataclass(frozen=True, slots=True)
class Head:
    """What is trained: a model of `kind`, the names of its outputs, the token that fills up, and
    the tokenizer that reads what a model for pairs writes."""

    model: Any
    kind: TaskKind
    labels: Sequence[str]
    padding: int
    tokenizer: Any


@dataclass(slots=True)
class _Said:
    """What was held out, and what the model says: classes, entities, or the tokens of texts."""

    truth: list[Any] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)


class HeadLesson:
    """The lesson: say what the records say."""

    name = "training"
    figure, figure_name = LOSS, "evaluation loss"
    diverged = 3.0  # a head begins near the loss of guessing, and may pass it for a while

    def __init__(self, head: Head, data: DataSet, hardware: Hardware, seed: int) -> None:
        """`seed` decides what dropout leaves out."""
        self._head, self._data, self._hardware, self._seed = head, data, hardware, seed
        self._lengths = {
            id(part): text_lengths(head.kind, part) for part in (data.training, data.evaluation)
        }
        self._unlearnt = len(head.labels) if head.kind == "entities" else None

    @property
    def lengths(self) -> Sequence[int]:
        """Return the tokens of each training example."""
        return self._lengths[id(self._data.training)]

    def backward(self, batch: list[int]) -> float:
        """Add the gradients of the mean loss over the batch's answers; return that mean."""
        model, total = self._head.model.train(), 0.0
        pieces = [rows for _, rows in self._blocks(self._data.training, batch)]
        targets = sum(rows.targets for rows in pieces)
        with self._dropout(batch):
            for rows in pieces:
                with self._hardware.autocast():
                    logits = logits_of(model, self._head.kind, rows)
                loss = summed_loss(logits, rows) / targets
                loss.backward()
                total += float(loss.detach())
        model.eval()
        return total

    def judge(self) -> dict[str, float]:
        """Return the loss, in nats an answer, and the task's measures on what is held out."""
        import torch

        model, kind, part = self._head.model.eval(), self._head.kind, self._data.evaluation
        loss, targets, answers = 0.0, 0, _Said()
        with torch.inference_mode():
            for indices, rows in self._blocks(part, range(len(part.lengths))):
                with self._hardware.autocast():
                    logits = logits_of(model, kind, rows)
                loss += float(summed_loss(logits, rows))
                targets += rows.targets
                if kind == "pairs":
                    self._write(part, indices, rows, answers)
                else:
                    self._compare(logits, rows, answers)
        figures = self._figures(answers)
        return {LOSS: loss / targets, **{f"{PREFIX}{n}": v for n, v in figures.items()}}

    def place(self, batch: list[int]) -> str:
        """Return which records the batch is made of."""
        return f"; its batch: {self._data.training.named(batch)}"

    @contextmanager
    def _dropout(self, batch: Sequence[int]) -> Iterator[None]:
        """Draw from a state that follows from seed and batch alone, so that a run that goes on
        after a kill needs no other."""
        import torch

        drawn = zlib.crc32(np.array([self._seed, *batch], dtype=np.int64).tobytes())
        devices = [torch.cuda.current_device()] if self._hardware.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(drawn)
            yield

    def _blocks(self, part: Part, batch: Sequence[int]) -> Iterator[tuple[list[int], Rows]]:
        head, device = self._head, self._hardware.device
        most = TOKENS_AT_ONCE
        if head.kind == "pairs":
            most = self._hardware.logits_at_once // int(head.model.config.vocab_size)
        for indices in blocks(batch, self._lengths[id(part)], most):
            examples = [asked(part, index) for index in indices]
            yield indices, rows_of(examples, head.padding, self._unlearnt, device)

    def _compare(self, logits: torch.Tensor, rows: Rows, answers: _Said) -> None:
        """Take note of the most likely classes or entities."""
        said, truth = logits.argmax(-1).tolist(), rows.answers.tolist()
        if self._head.kind == "classes":
            answers.truth += [row[0] for row in truth]
            answers.said += [row[0] for row in said]
            return
        for wanted, got in zip(truth, said, strict=True):
            learnt = [place for place, number in enumerate(wanted) if number != UNLEARNT]
            answers.truth.append(self._entities(wanted, learnt))
            answers.said.append(self._entities(got, learnt))

    def _entities(self, numbers: Sequence[int], learnt: Sequence[int]) -> list[Entity]:
        return spans_of([self._head.labels[numbers[place]] for place in learnt])

    def _write(self, part: Part, indices: Sequence[int], rows: Rows, answers: _Said) -> None:
        """Let the model write, greedily, what is made of those texts that come first."""
        kept = [row for row, index in enumerate(indices) if index < MOST_WRITTEN]
        if not kept:
            return
        longest = max(part.targets[index] for index in range(min(MOST_WRITTEN, len(part.targets))))
        written = self._head.model.generate(
            rows.token_ids[kept],
            attention_mask=rows.mask[kept],
            generation_config=self._greedy(int(SLACK * longest) + 4),
        )
        for row, tokens in zip(kept, written.tolist(), strict=True):
            wanted = [token for token in rows.answers[row].tolist() if token != UNLEARNT]
            answers.truth.append(self._text(wanted))
            answers.said.append(self._text(tokens))

    def _greedy(self, most_tokens: int) -> Any:
        """Return settings of our own: what a checkpoint asks for may be beams without end."""
        from transformers import GenerationConfig

        config = self._head.model.config
        return GenerationConfig(
            max_new_tokens=most_tokens,
            do_sample=False,
            num_beams=1,
            decoder_start_token_id=config.decoder_start_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=self._head.padding,
        )

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self._head.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _figures(self, answers: _Said) -> dict[str, float]:
        match self._head.kind:
            case "classes":
                return class_figures(answers.truth, answers.said, len(self._head.labels))
            case "entities":
                labels = sorted({tag[2:] for tag in self._head.labels if tag[1:2] == "-"})
                return entity_figures(answers.truth, answers.said, labels)
            case "pairs":
                return text_figures(answers.truth, answers.said)
