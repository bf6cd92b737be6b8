"""train, for models with heads: classes, entities, texts made of texts.

What a run is, how it is kept, resumed and found finished is `edgekit.workflows.training_job`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

from converters.checkpoint import Checkpoint
from converters.heads.model import (
    USUAL_CONTEXT,
    kind_of,
    labels_of,
    load_headed,
    longest_text,
    padding_of,
    require_family,
    required_count,
    text_tokenizer,
)
from converters.lineage import Stage
from edgekit.entities import tag_names
from edgekit.errors import InputError
from edgekit.files import require_space, write_atomically
from edgekit.store import cache
from edgekit.task import TaskKind
from edgekit.train.curve import Figure
from edgekit.train.dataset import DataSet, data_files, read_data
from edgekit.train.heads.card import head_card
from edgekit.train.heads.examples import HeadEncoder, text_lengths
from edgekit.train.heads.lesson import Head, HeadLesson
from edgekit.train.heads.metrics import LOSS
from edgekit.train.heads.records import find_labels, reader_of
from edgekit.train.heads.result import write_headed
from edgekit.train.kept_data import save_data
from edgekit.train.loop import Tell, train
from edgekit.train.result import round_weights
from edgekit.train.trained import choose
from edgekit.workflows.training_job import DEFAULT_CONTEXT, FineTuned, Job

FIGURE = Figure(LOSS, "loss, nats")
LABELS = "labels.json"


class HeadJob(Job):
    """A run that trains a model with a head."""

    def _check(self) -> None:
        configuration = self._configuration
        require_family(self._parent, self._kind)
        refused = {
            ("adapter", ""): configuration.adapter is not None,
            ("train", "only"): configuration.train.only is not None,
            ("train", "freeze"): bool(configuration.train.freeze),
            ("train", "gradient_checkpointing"): configuration.train.gradient_checkpointing,
            ("teacher", ""): configuration.teacher is not None,
            ("model", "new"): configuration.model.new is not None,
        }
        for (section, key), is_wanted in refused.items():
            if is_wanted:
                self._refuse(section, key)
        if self._team.size > 1:
            raise InputError(
                f"{configuration.where('data', 'kind')} is trained by one process, and torchrun "
                f"started {self._team.size}",
                hint="run edgekit train without torchrun",
            )
        self._parent.tokenizer  # noqa: B018 - told now if there is none
        padding_of(self._parent)

    def _refuse(self, section: str, key: str) -> None:
        raise InputError(
            f"{self._configuration.where(section, key)} is for chats and texts: "
            f'with [data] kind = "{self._kind}" all weights are trained',
            hint="leave it out",
        )

    @property
    def _kind(self) -> TaskKind:
        return cast("TaskKind", self._section.kind)

    def _window(self) -> int:
        longest, wanted = longest_text(self._parent), self._section.context
        if longest is None:
            return wanted or USUAL_CONTEXT
        if wanted is not None and wanted > longest:
            raise InputError(
                f"{self._configuration.where('data', 'context')} is {wanted}, and the model was "
                f"made for {longest} tokens"
            )
        return wanted or min(longest, DEFAULT_CONTEXT)

    @cached_property
    def _labels(self) -> list[str]:
        """The names of the outputs: as an interrupted run kept them, or found in the data."""
        kept = self.folder / LABELS
        if kept.is_file():
            return list(json.loads(kept.read_text(encoding="utf-8")))
        found = find_labels(self._kind, data_files(self._section))
        labels = tag_names(found) if self._kind == "entities" else found
        if self._kind != "pairs" and kind_of(self._parent) == self._kind:
            theirs = labels_of(self._parent)
            if set(theirs) == set(labels):  # its head knows them already, in its own order
                return theirs
        return labels

    def _read(self) -> DataSet:
        encoder = HeadEncoder(self._parent, self._labels, self._context, self._section.too_long)
        vocabulary = required_count(self._parent, "vocab_size")
        if len(self._labels) >= vocabulary:
            raise InputError(f"{len(self._labels)} labels are more than the model has tokens")
        folder, read = cache() / "training", reader_of(self._kind)
        return read_data(self._section, encoder, vocabulary, folder, self._progress, read)

    def _lengths(self) -> Sequence[int]:
        return text_lengths(self._kind, self._data.training)

    def run(self, out: Path, replace: bool, tell: Tell) -> FineTuned:
        """Train, and write the result into `out`. See `run_training`."""
        wanted, parent = self._configuration.train, self._parent
        require_space(out.absolute().parent, 4 * parent.parameters)
        labels, data = self._labels, self._data
        write_atomically(self.folder / LABELS, json.dumps(labels).encode())
        save_data(self.folder, data)
        model = load_headed(parent, self._kind, labels, wanted.seed).to(self._hardware.device)
        trained = choose(model, "full")
        head = Head(model, self._kind, labels, padding_of(parent), text_tokenizer(parent))
        lesson = HeadLesson(head, data, self._hardware, wanted.seed)
        outcome = train(lesson, trained, self._settings, self.folder, self._progress, tell)
        round_weights(model, parent)
        with self._progress.task("judging the trained model", 1, "passes") as advance:
            after = lesson.judge()
            advance(1)
        more = {"kind": self._kind, "labels": labels}
        how = self._record(outcome, outcome.run.judged[0], after, more)
        stage = Stage("trained", self._origin, self._parent_digest, how)
        text = self._configuration.text
        card = head_card(out.name, parent.path.resolve().name, parent.licence, how, text)
        files = self._files(f"{out.name}: {self._kind}", outcome, FIGURE, card) | _kept(parent)
        write_headed(parent, model, out, stage, files, replace)
        return FineTuned(out, how, already_there=False)


def _kept(parent: Checkpoint) -> dict[str, bytes]:
    """Return those files of the parent's tokenizer that only such families have."""
    names = ("vocab.txt", "spiece.model")
    return {n: (parent.path / n).read_bytes() for n in names if (parent.path / n).is_file()}
