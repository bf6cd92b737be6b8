"""A run of the trainer, whatever it trains: what it is made from, where its state is, its record.

Everything is checked before the first step. What a run needs to go on after a kill lies in the
cache, under a name that stands for all that decides what comes out of it.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.lineage import read_stage_in
from edgekit.errors import InputError
from edgekit.files import FolderExistsError, Waiting, file_lock
from edgekit.progress import Progress
from edgekit.store import ADAPTER_FILE, cache, find_checkpoint
from edgekit.train import figures
from edgekit.train.board import Board
from edgekit.train.configuration import Configuration, DataSection
from edgekit.train.curve import Figure, as_lines, draw
from edgekit.train.dataset import DataSet, data_files, digest_of
from edgekit.train.hardware import Hardware
from edgekit.train.kept_data import load_data
from edgekit.train.leftovers import Leftover, lock_of
from edgekit.train.loop import NoHelpError, Outcome, Settings, Tell, saved_step
from edgekit.train.order import batches
from edgekit.train.schedule import Budget
from edgekit.train.team import ALONE, Team

VERSION = 1  # of what a state means: another one goes on with no state of this one
DEFAULT_CONTEXT = 1024
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run will do, known before its first step. `steps` is None where minutes end it.
    `resumed_step`: where an interrupted run goes on, None for a new one. `leftovers`: states of
    other runs, too old to be gone on with, that were removed to begin with. `new`: facts of a new
    model, as the record has them, and `notes` what its widths forbid; empty for a checkpoint."""

    parent: Checkpoint
    context: int
    data: DataSet
    digest: str
    steps: int | None
    resumed_step: int | None
    new: dict[str, Any]
    notes: tuple[str, ...]
    leftovers: Sequence[Leftover] = ()


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The folder that was written, and the record of its making: see `Job.record`.

    `already_there`: an earlier call of the same command had finished it.
    """

    path: Path
    how: dict[str, Any]
    already_there: bool

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint. Raises InputError where an adapter was kept apart."""
        return Checkpoint.open(self.path)


class Job(ABC):
    """A run of a configuration: what can be checked at once is, when it is made."""

    def __init__(
        self,
        configuration: Configuration,
        progress: Progress,
        team: Team = ALONE,
        scratch: Path | None = None,
    ) -> None:
        """A new model is made in `scratch`, or in the folder of the run."""
        self._configuration, self._progress, self._team = configuration, progress, team
        self._scratch, self._hardware = scratch, Hardware.detect()
        self._check()
        self._digest = team.from_first(lambda: digest_of(self._section, progress))
        self._parent_digest = team.from_first(self._digest_of_parent)

    @abstractmethod
    def _check(self) -> None:
        """Raise InputError for what does not fit the model: now, not after the data was read."""

    @abstractmethod
    def _window(self) -> int:
        """Return the most tokens of an example. Raises InputError."""

    @abstractmethod
    def _read(self) -> DataSet:
        """Return the data set, read and checked now. Raises InputError."""

    @abstractmethod
    def _lengths(self) -> Sequence[int]:
        """Return the tokens of each piece that a step's batch is made of."""

    @abstractmethod
    def run(self, out: Path, replace: bool, tell: Tell) -> FineTuned:
        """Train and write. Only the first process writes, and what it writes all return."""

    def _opened(self, section: str, named: str) -> Checkpoint:
        """Return the checkpoint that `section` names: a folder beside the file, or what it says."""
        where = self._configuration.where(section, "checkpoint")
        try:
            beside = self._configuration.path.parent / named
            found = str(beside) if (beside / "config.json").is_file() else named
            return Checkpoint.open(find_checkpoint(found))
        except InputError as error:
            raise InputError(f"{where}: {error.message}", error.hint) from error
        except (OSError, RuntimeError) as error:  # a name that is too long, a user there is not
            raise InputError(f"{where} is no name of a folder: {error.args[-1]}") from error

    @cached_property
    def _parent(self) -> Checkpoint:
        """The checkpoint to begin with."""
        return self._opened("model", self._configuration.model.checkpoint or "")

    def _digest_of_parent(self) -> str:
        return self._parent.digest()

    @cached_property
    def _context(self) -> int:
        return self._window()

    @property
    def _section(self) -> DataSection:
        return self._configuration.data

    @cached_property
    def _data(self) -> DataSet:
        """The data set: as an interrupted run kept it, or read and checked now."""
        kept = load_data(self.folder, data_files(self._section))
        if kept is not None:
            return kept
        if not self._team.is_first:
            raise InputError(
                f"process {self._team.rank} does not see {self.folder}, which the first one wrote",
                hint="let EDGEKIT_HOME name one folder that all machines of the run share",
            )
        return self._read()

    @cached_property
    def key(self) -> str:
        """Return a name for this run: all that decides what comes out of it."""
        return hashlib.sha256(json.dumps(self._parts()).encode()).hexdigest()[:32]

    def _parts(self) -> list[Any]:
        """Return what the name stands for: plain JSON."""
        device, said = self._hardware.device, self._configuration.to_dict()
        return [VERSION, self._parent_digest, self._digest, device, self._context, said]

    @property
    def folder(self) -> Path:
        """Return where the state of the run is kept."""
        return cache() / "training" / f"run-{self.key}"

    def lock(self, waiting: Waiting) -> AbstractContextManager[None]:
        """Hold the run; the first process does it for its team."""
        if not self._team.is_first:
            return nullcontext()
        return file_lock(lock_of(self.folder), waiting)

    def board(self, out: Path) -> AbstractContextManager[Board | None]:
        """Return what writes event files, of the name of `out`, if that is wanted of this process.

        Raises MissingExtraError without TensorBoard, InputError for a bad folder.
        """
        folder = self._configuration.train.tensorboard
        if folder is None or not self._team.is_first:
            return nullcontext()
        return Board(folder / out.name, saved_step(self.folder))

    @cached_property
    def _steps(self) -> int | None:
        wanted = self._configuration.train
        limits = [] if wanted.steps is None else [wanted.steps]
        if wanted.epochs is not None:
            lengths = self._lengths()
            limits.append(_steps_of(lengths, wanted.batch_tokens, wanted.seed, wanted.epochs))
        return min(limits) if limits else None

    @property
    def _settings(self) -> Settings:
        wanted = self._configuration.train
        return Settings(
            Budget(self._steps, wanted.minutes), self._configuration.learning_rate,
            wanted.batch_tokens, wanted.clip, wanted.seed,
            self._configuration.evaluate.times, wanted.save_seconds,
        )  # fmt: skip

    @property
    def prepared(self) -> Prepared:
        """Return what the run will do."""
        return Prepared(
            self._parent, self._context, self._data, self._digest, self._steps,
            saved_step(self.folder), self._new, tuple(self._notes()),
        )  # fmt: skip

    @property
    def _new(self) -> dict[str, Any]:
        """Return what a new model is, as plain JSON; nothing for a checkpoint."""
        return {}

    def _notes(self) -> list[str]:
        return []

    def finished(self, out: Path) -> FineTuned:
        """Return what an earlier call left in `out`. Raises FolderExistsError if it is not that."""
        if any((out / mark).is_file() for mark in ("config.json", ADAPTER_FILE)):
            stage = read_stage_in(out)
            if stage is not None and stage.kind == "trained" and stage.how.get("run") == self.key:
                return FineTuned(out, stage.how, already_there=True)
        raise FolderExistsError(
            f"{out} exists already, and not from this configuration and data",
            hint="choose another folder, or --replace",
        )

    @property
    def _origin(self) -> str:
        """Return where the run began, as its record names it."""
        return str(self._parent.path.resolve())

    def _record(
        self, outcome: Outcome, before: Figures, after: Figures, more: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the record of the stage, plain JSON, with what is `more` of a kind of job.

        Raises NoHelpError if the model does no better on what was held out than before.
        """
        run, data = outcome.run, self._data
        files = [*self._section.files, *self._section.evaluation_files]
        found = {
            "run": self.key,
            "method": self._configuration.method,
            **more,
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
            "before": figures.plain(before),
            "after": figures.plain(after),
            "stopped": outcome.stopped,
        }
        _require_better(found)
        return found

    def _files(
        self, name: str, outcome: Outcome, figure: Figure, card: bytes
    ) -> dict[str, bytes | None]:
        """Return what lies beside the weights; the parent's card stays, under another name."""
        parent, curve = self._parent, outcome.run.curve
        files: dict[str, bytes | None] = {
            "README.md": card,
            "training.toml": self._configuration.text.encode(),
            "training.jsonl": as_lines(curve),
            "training.png": draw(curve, name, figure),
        }
        if (parent.path / "README.md").is_file():
            files["README.parent.md"] = (parent.path / "README.md").read_bytes()
        return files


def _require_better(how: dict[str, Any]) -> None:
    """Raise NoHelpError if the model does no better on what was held out than before."""
    before, after = how["before"]["loss"], how["after"]["loss"]
    if not after < before:
        why = how["stopped"] or f"after {how['steps']} steps"
        raise NoHelpError(
            f"training did not help: the evaluation loss was {before:.4f} and is {after:.4f} "
            f"({why}); nothing is written",
            hint="try more steps, more data, or another learning rate",
        )


def _steps_of(lengths: Sequence[int], batch_tokens: int, seed: int, epochs: float) -> int:
    """Return how many steps it takes until `epochs` times all examples were in a batch."""
    wanted, taken = epochs * len(lengths), 0
    for step, batch in enumerate(batches(lengths, batch_tokens, seed), 1):
        taken += len(batch)
        if taken >= wanted:
            return step
    raise AssertionError("batches end")  # pragma: no cover - they have no end
