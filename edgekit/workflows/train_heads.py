"""train, for models with heads: classes, entities, texts made of texts.

What a run is, how it is kept, resumed and found finished is `edgekit.workflows.train`'s.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

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
from edgekit.train.curve import Figure, as_lines, draw
from edgekit.train.dataset import DataSet, data_files, read_data
from edgekit.train.heads.card import head_card
from edgekit.train.heads.examples import HeadEncoder, text_lengths
from edgekit.train.heads.lesson import Head, HeadLesson
from edgekit.train.heads.metrics import LOSS, PREFIX
from edgekit.train.heads.records import find_labels, reader_of
from edgekit.train.heads.result import write_headed
from edgekit.train.kept_data import load_data, save_data
from edgekit.train.loop import Outcome, Settings, Tell, train
from edgekit.train.result import round_weights
from edgekit.train.schedule import Budget
from edgekit.train.trained import choose
from edgekit.workflows.train import DEFAULT_CONTEXT, FineTuned, Job, require_better, steps_of

FIGURE = Figure(LOSS, "loss, nats")
LABELS = "labels.json"


class HeadJob(Job):
    """A run that trains a model with a head."""

    def _check_model(self) -> None:
        configuration = self._configuration
        require_family(self._parent, self._kind)
        if configuration.adapter is not None:
            self._refuse("adapter", "kind")
        if configuration.train.only is not None:
            self._refuse("train", "only")
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

    @cached_property
    def _data(self) -> DataSet:
        kept = load_data(self.folder, data_files(self._section))
        if kept is not None:
            return kept
        encoder = HeadEncoder(self._parent, self._labels, self._context, self._section.too_long)
        vocabulary = required_count(self._parent, "vocab_size")
        if len(self._labels) >= vocabulary:
            raise InputError(f"{len(self._labels)} labels are more than the model has tokens")
        folder, read = cache() / "training", reader_of(self._kind)
        return read_data(self._section, encoder, vocabulary, folder, self._progress, read)

    @cached_property
    def _steps(self) -> int | None:
        wanted = self._configuration.train
        limits = [] if wanted.steps is None else [wanted.steps]
        if wanted.epochs is not None:
            lengths = text_lengths(self._kind, self._data.training)
            limits.append(steps_of(lengths, wanted.batch_tokens, wanted.seed, wanted.epochs))
        return min(limits) if limits else None

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
        settings = Settings(
            Budget(self._steps, wanted.minutes), self._configuration.learning_rate,
            wanted.batch_tokens, wanted.clip, wanted.seed,
            self._configuration.evaluate.times, wanted.save_seconds,
        )  # fmt: skip
        outcome = train(lesson, trained, settings, self.folder, self._progress, tell)
        round_weights(model, parent)
        with self._progress.task("judging the trained model", 1, "passes") as advance:
            after = lesson.judge()
            advance(1)
        how = self._record(outcome, after)
        require_better(how)
        stage = Stage("trained", str(parent.path.resolve()), self._parent_digest, how)
        files = self._files(out, outcome, how)
        checkpoint = write_headed(parent, model, out, stage, files, replace)
        return FineTuned(checkpoint, how, already_there=False)

    def _record(self, outcome: Outcome, after: dict[str, float]) -> dict[str, Any]:
        """Return the record of the stage: plain JSON."""
        run, data = outcome.run, self._data
        files = [*self._section.files, *self._section.evaluation_files]
        return {
            "run": self._key,
            "method": "full",
            "kind": self._kind,
            "labels": self._labels,
            "configuration": self._configuration.to_dict(),
            "data": {
                "files": [file.name for file in files],
                "digest": self._digest,
                "training_records": data.training.records,
                "training_targets": sum(data.training.targets),
                "evaluation_records": data.evaluation.records,
                "evaluation_targets": sum(data.evaluation.targets),
                **asdict(data.report),
            },
            "context": self._context,
            "steps": run.step,
            "best_step": int(run.best["step"]),
            "tokens": run.tokens,
            "seconds": round(run.elapsed_s, 1),
            "before": _figures(run.judged[0]),
            "after": _figures(after),
            "stopped": outcome.stopped,
        }

    def _files(self, out: Path, outcome: Outcome, how: dict[str, Any]) -> dict[str, bytes | None]:
        """Return what lies beside the weights; the parent's card stays, under another name."""
        parent, text = self._parent, self._configuration.text
        files: dict[str, bytes | None] = {
            "README.md": head_card(out.name, parent.path.resolve().name, parent.licence, how, text),
            "training.toml": text.encode(),
            "training.jsonl": as_lines(outcome.run.curve),
            "training.png": draw(outcome.run.curve, f"{out.name}: {self._kind}", FIGURE),
        }
        files |= _kept(parent)
        return files


def _kept(parent: Checkpoint) -> dict[str, bytes]:
    """Return the parent's card, and those files of its tokenizer that only such families have."""
    names = {"README.md": "README.parent.md", "vocab.txt": "vocab.txt", "spiece.model": ""}
    return {
        new or old: (parent.path / old).read_bytes()
        for old, new in names.items()
        if (parent.path / old).is_file()
    }


def _figures(entry: dict[str, float]) -> dict[str, float]:
    """Return the figures of an entry of the curve by their short names."""
    return {n.removeprefix(PREFIX): v for n, v in entry.items() if n.startswith(PREFIX)}
