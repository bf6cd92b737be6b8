"""train: a configuration, a checkpoint and data become a trained checkpoint.

Everything is checked before the first step. What a run needs to go on after a kill lies in the
cache, under a name that stands for all that decides what comes out of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.lineage import Stage, read_stage_in
from converters.recipe import Recipe
from converters.reference import load_model
from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.errors import InputError
from edgekit.files import FolderExistsError, Waiting, file_lock, require_space
from edgekit.progress import NoProgress, Progress
from edgekit.store import ADAPTER_FILE, cache, find_checkpoint
from edgekit.train import figures
from edgekit.train.answer_figures import require_figures
from edgekit.train.answers import Interview, held_out_questions
from edgekit.train.board import Board
from edgekit.train.card import card
from edgekit.train.configuration import Configuration, DataSection
from edgekit.train.curve import Figure, as_lines, draw
from edgekit.train.dataset import DataSet, data_files, digest_of, read_data
from edgekit.train.examples import ChatEncoder, Encoder, TextEncoder
from edgekit.train.hardware import Hardware
from edgekit.train.kept_data import load_data, save_data
from edgekit.train.leftovers import Leftover, lock_of, remove_old_runs
from edgekit.train.loop import (
    Lesson,
    NoHelpError,
    Outcome,
    Settings,
    Tell,
    Watch,
    saved_step,
    train,
)  # fmt: skip
from edgekit.train.meter import Meter
from edgekit.train.methods import Methods, piece_lengths, prepare_lesson
from edgekit.train.model_section import notes
from edgekit.train.new_model import make_checkpoint, tokenizer_digest, tokenizer_source
from edgekit.train.order import batches
from edgekit.train.peft_folder import write_adapter
from edgekit.train.preference_examples import PreferenceEncoder
from edgekit.train.result import round_weights, write_result
from edgekit.train.schedule import Budget
from edgekit.train.sharding import on_first, shard
from edgekit.train.standing import Standing
from edgekit.train.team import ALONE, Team
from edgekit.train.trained import Trained, finish
from edgekit.workflows.conversion import Request, folder_in_store, run_request

VERSION = 1  # of what a state means: another one goes on with no state of this one
DEFAULT_CONTEXT = 1024
Figures = dict[str, float]
NEW = "new"  # the untrained model, in the folder of its run


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run will do, known before its first step. `steps` is None where minutes end it.
    `resumed_step`: where an interrupted run goes on, None for a new one. `leftovers`: states of
    other runs, too old to be gone on with, that were removed to begin with. `new`: facts of a new
    model, as `_how` records them, and `notes` what its widths forbid; empty for a checkpoint."""

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
    """The folder that was written, and the record of its making: see `_how`.

    `already_there`: an earlier call of the same command had finished it.
    """

    path: Path
    how: dict[str, Any]
    already_there: bool

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint. Raises InputError where an adapter was kept apart."""
        return Checkpoint.open(self.path)


def prepare_training(configuration: Configuration, progress: Progress) -> Prepared:
    """Check configuration, checkpoint and data, and say what a run would do. Writes nothing.

    Raises InputError for anything wrong.
    """
    with tempfile.TemporaryDirectory() as scratch:  # a new model is made, to see what it is
        return Job(configuration, progress, scratch=Path(scratch)).prepared


def run_training(
    configuration: Configuration,
    out: Path,
    *,
    progress: Progress,
    tell: Tell = lambda _standing: None,
    announce: Callable[[Prepared], None] = lambda _prepared: None,
    replace: bool = False,
    waiting: Waiting = nullcontext,
    team: Team = ALONE,
) -> FineTuned:
    """Train as `configuration` says, and write the result into the folder `out`.

    `announce` is told what the run will do, `tell` how it stands after each step. Killed at any
    moment, the same call goes on where it was; a call that had finished is not run again. The
    processes of `team` make the same call, and all see the same folders.

    Raises InputError for bad configuration, checkpoint or data, before the first step, and where
    `out` exists, from another run, and `replace` is false; GateError where training makes nothing
    better, or the disk is full: then nothing is written, and the last state stays.
    """
    job = Job(configuration, progress if team.is_first else NoProgress(), team)
    with job.lock(waiting):
        if team.from_first(lambda: out.exists() and not replace):
            trained = job.finished(out)
        else:
            if team.is_first:
                leftovers = remove_old_runs(job.folder.parent, beside=job.folder)
                announce(dataclasses.replace(job.prepared, leftovers=leftovers))
            with job.board(out) as board:
                trained = job.run(out, replace, _both(tell, board))
        team.wait()
        if team.is_first:
            shutil.rmtree(job.folder, ignore_errors=True)  # a kill may have come before this
    return trained


def _both(tell: Tell, board: Board | None) -> Tell:
    """Return what tells both whoever watches and TensorBoard how the run stands."""

    def both(standing: Standing) -> None:
        tell(standing)
        if board is not None:
            board.write(standing.curve)

    return both


def require_free(out: Path, recipe: Recipe) -> None:
    """Raise FolderExistsError if what is trained into `out` could not be converted afterwards."""
    artifact = folder_in_store(out, recipe)
    if artifact.exists() and not out.exists():
        raise FolderExistsError(
            f"{artifact} exists already, and what is trained could not be converted into it",
            hint="choose another -o, or --replace",
        )


def convert_training(
    trained: FineTuned, recipe: Recipe, progress: Progress, *, replace: bool = False
) -> Artifact:
    """Convert what was trained into the store; an artifact of the same weights is not made again.

    Raises InputError where one of other weights is in its place and `replace` is false.
    """
    request = Request(trained.checkpoint, recipe)
    out = request.default_folder
    if (out / MANIFEST_NAME).is_file():
        found = Artifact.open(out)
        source = found.manifest.source
        if (source.checkpoint_digest, source.recipe) == (
            trained.checkpoint.digest(), recipe.to_dict(),
        ):  # fmt: skip
            return found
    return run_request(request, out, progress=progress, replace=replace)


class Job:
    """A run of a configuration: what can be checked at once is, when it is made."""

    def __init__(
        self,
        configuration: Configuration,
        progress: Progress,
        team: Team = ALONE,
        scratch: Path | None = None,
    ) -> None:
        """Check what can be checked at once. A new model is made in `scratch`, or in the folder."""
        self._configuration, self._progress, self._team = configuration, progress, team
        self._scratch, self._hardware = scratch, Hardware.detect()
        self._teacher, self._teacher_digest = None, ""
        if configuration.teacher is not None:
            self._teacher = self._opened("teacher", configuration.teacher.checkpoint)
            self._teacher_digest = team.from_first(self._teacher.digest)
        if configuration.model.new is None:
            self._context = self._window()
            self._methods  # noqa: B018 - complains now, not after the data was read
            self._parent_digest = team.from_first(self._parent.digest)
            self._digest = team.from_first(lambda: digest_of(self._section, progress))
        else:
            self._digest = team.from_first(lambda: digest_of(self._section, progress))
            self._parent_digest = team.from_first(self._digest_of_new)
            self._context = self._window()

    @cached_property
    def _methods(self) -> Methods:
        return Methods(
            self._configuration, self._parent, self._teacher, self._context, self._hardware,
            self._team,
        )  # fmt: skip

    @cached_property
    def _parent(self) -> Checkpoint:
        """The checkpoint to begin with: the one that is named, or a new one."""
        model = self._configuration.model
        if model.new is not None:
            return make_checkpoint(
                self._configuration, (self._scratch or self.folder) / NEW, self._progress
            )
        parent = self._opened("model", model.checkpoint or "")
        describe(parent)  # packing is proved for these families; others could leak
        return parent

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

    def _digest_of_new(self) -> str:
        """Return what a new model is made from, in place of a digest: it need not be made yet."""
        source = tokenizer_source(self._configuration)
        taken = None if source is None else tokenizer_digest(source)
        made_by = [importlib.metadata.version(name) for name in ("torch", "tokenizers")]
        parts = [self._configuration.to_dict(), self._digest, taken, made_by]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _window(self) -> int:
        wanted, longest = self._section.context, self._configuration.model.context
        longest = longest or _count(self._parent, "max_position_embeddings")
        if wanted is not None and wanted > longest:
            raise InputError(
                f"{self._configuration.where('data', 'context')} is {wanted}, and the model was "
                f"made for {longest} tokens"
            )
        return wanted or min(longest, DEFAULT_CONTEXT)

    @cached_property
    def _data(self) -> DataSet:
        """The data set: as an interrupted run kept it, or read and checked now."""
        section, vocabulary = self._section, _count(self._parent, "vocab_size")
        kept = load_data(self.folder, data_files(section))
        if kept is not None:
            return kept
        if not self._team.is_first:
            raise InputError(
                f"process {self._team.rank} does not see {self.folder}, which the first one wrote",
                hint="let EDGEKIT_HOME name one folder that all machines of the run share",
            )
        return read_data(section, self._encoder(), vocabulary, cache() / "training", self._progress)

    @property
    def _section(self) -> DataSection:
        return self._configuration.data

    def _encoder(self) -> Encoder:
        section = self._section
        if section.kind != "text":
            encoder = PreferenceEncoder if section.kind == "preference" else ChatEncoder
            return encoder(self._parent, self._context, section.too_long)
        try:
            return TextEncoder(self._parent, self._context, section.end_of_text)
        except InputError as error:
            where = self._configuration.where("data", "end_of_text")
            raise InputError(f"{where}: {error.message}", error.hint) from error

    @cached_property
    def key(self) -> str:
        """Return a name for this run: all that decides what comes out of it."""
        said = []
        if self._configuration.model.new is None:
            # The digest of a checkpoint leaves out its template and the tokens that end an answer.
            parent = self._parent
            said = [parent.chat_template, parent.tokenizer_config, parent.generation_config]
        parts = [VERSION, self._parent_digest, said, self._digest, self._hardware.device,
                 self._context, self._configuration.to_dict(), self._teacher_digest]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

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
        wanted, part = self._configuration.train, self._data.training
        limits = [] if wanted.steps is None else [wanted.steps]
        if wanted.epochs is not None:
            lengths = piece_lengths(self._configuration, part)
            limits.append(_steps_of(lengths, wanted.batch_tokens, wanted.seed, wanted.epochs))
        return min(limits) if limits else None

    @property
    def prepared(self) -> Prepared:
        """Return what the run will do."""
        step = saved_step(self.folder)
        found = [*notes(self._configuration.model), *self._vocabulary_note()]
        return Prepared(
            self._parent, self._context, self._data, self._digest, self._steps, step,
            self._new, tuple(found),
        )  # fmt: skip

    def _vocabulary_note(self) -> list[str]:
        section = self._configuration.tokenizer
        asked = None if section is None else section.vocabulary
        if asked is None or self._new["tokens"] >= asked:
            return []
        return [f"the training records have words for {self._new['tokens']} tokens, not {asked}"]

    @property
    def _new(self) -> dict[str, Any]:
        """Return what a new model is, as plain JSON; nothing for a checkpoint."""
        model, section = self._configuration.model, self._configuration.tokenizer
        if model.new is None or section is None:
            return {}
        return {
            "family": model.new,
            "parameters": self._parent.parameters,
            "tokens": _count(self._parent, "vocab_size"),
            "tokenizer": section.checkpoint or "trained",
        }

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

    def run(self, out: Path, replace: bool, tell: Tell) -> FineTuned:
        """Train and write. Only the first process writes, and what it writes all return."""
        team = self._team
        team.from_first(lambda: self._keep_data(out))
        interview = self._interview() if team.is_first else None
        answers = [] if interview is None else self._asked_before(interview)
        outcome, model, trained = self._trained(tell)
        if team.is_first:
            model, trained, before, after = self._judged(outcome, model, trained)
            how = self._how(outcome, before, after)
            _require_better(how)
            if interview is not None:
                interview.enter(how, answers, interview.ask(model))
            self._write(out, model, trained, outcome, how, replace)
        team.wait()
        return dataclasses.replace(self.finished(out), already_there=False)

    def _keep_data(self, out: Path) -> None:
        """Read and keep the data. Raises GateError where the result would have no room."""
        weights_bytes = sum(info.bytes for info in self._parent.tensors.values())
        if not self._configuration.keeps_adapter:
            require_space(out.absolute().parent, weights_bytes)  # told now, not after the training
        save_data(self.folder, self._data)

    def _begun(self, folder: Path) -> tuple[Any, Trained, Lesson, Settings, Meter]:
        """Return the model, what of it learns, what it learns, how, and what measures its speed.

        What the lesson asks the model before training is kept in `folder`.
        """
        wanted, methods, team = self._configuration.train, self._methods, self._team
        model, trained = methods.begin()
        meter = Meter.of(model, self._hardware, team)
        trained = shard(model, trained, team, self._hardware)
        lesson = methods.lesson(model, self._data)
        prepare_lesson(lesson, folder, self._progress)
        settings = Settings(
            Budget(self._steps, wanted.minutes), self._configuration.learning_rate,
            wanted.batch_tokens, wanted.clip, wanted.seed,
            self._configuration.evaluate.times, wanted.save_seconds,
        )  # fmt: skip
        return model, trained, lesson, settings, meter

    def _trained(self, tell: Tell) -> tuple[Outcome, Any, Trained]:
        """Train; return the model with the best weights: whole in the first process, if several."""
        team = self._team
        model, trained, lesson, settings, meter = self._begun(self.folder)
        outcome = train(lesson, trained, settings, self.folder, self._progress, tell, team, meter)
        if team.size > 1:
            best = on_first(trained.values(), team)
            if team.is_first:  # who goes on as if it had trained alone
                model, trained = self._methods.begin()
                trained.restore(best)
                model.to(self._hardware.device)
        return outcome, model, trained

    def with_settings(self, configuration: Configuration) -> Job:
        """Return this job with other settings; checkpoint, context and data must be the same."""
        other = copy(self)
        other._configuration = configuration
        for computed in ("key", "_steps", "_methods"):
            other.__dict__.pop(computed, None)
        return other

    def keep_data(self, folder: Path) -> None:
        """Read and check the data now, and keep it in `folder`; or take it from there.

        A new model is made there too.
        """
        self._scratch = folder
        kept = load_data(folder, data_files(self._section))
        if kept is None:
            save_data(folder, self._data)
        else:
            self._data = kept

    def rehearse(self, folder: Path, progress: Progress, tell: Tell, watch: Watch) -> Outcome:
        """Train and keep nothing but what is the same for all settings, that in `folder`.

        Returns how it ended. Raises NoHelpError as `train` does.
        """
        _, trained, lesson, settings, meter = self._begun(folder)
        return train(lesson, trained, settings, None, progress, tell, ALONE, meter, watch)

    def _judged(
        self, outcome: Outcome, model: Any, trained: Trained
    ) -> tuple[Any, Trained, Figures, Figures]:
        """Return the model as it will be written, with its figures before and after."""
        methods, before = self._methods, outcome.run.judged[0]
        whole = methods.unquantised()
        lesson = methods.lesson(model if whole is None else whole, self._data, alone=True)
        if whole is None:
            prepare_lesson(lesson, self.folder, self._progress)
        else:
            prepare_lesson(lesson, None, self._progress)
            model, before, trained = whole, lesson.judge(), methods.moved(trained, whole)
        if not self._configuration.keeps_adapter:
            finish(model, trained)
            round_weights(model, self._parent)
        with self._progress.task("judging the trained model", 1, "passes") as advance:
            after = lesson.judge()
            advance(1)
        return model, trained, before, after

    def _write(
        self, out: Path, model: Any, trained: Trained, outcome: Outcome, how: dict[str, Any],
        replace: bool,
    ) -> None:  # fmt: skip
        parent, adapter = self._parent, self._configuration.adapter
        stage = Stage("trained", self._origin, self._parent_digest, how)
        files = self._files(out, outcome, how)
        if adapter is not None and self._configuration.keeps_adapter:
            write_adapter(parent, adapter, trained.values(), out, stage, files, replace)
        else:
            write_result(parent, model, out, stage, files, self._progress, replace)

    def _interview(self) -> Interview | None:
        """Return who asks the held-out chats; None where the configuration wants no answers."""
        wanted = self._configuration.evaluate
        if not wanted.answers:
            return None
        require_figures()
        asked = held_out_questions(self._data.evaluation, wanted.answers, self._context)
        if not asked:
            where = self._configuration.where("evaluate", "answers")
            raise InputError(
                f"{where}: no held-out chat is shorter than the window of {self._context} tokens",
                hint="raise [data] context",
            )
        return Interview(self._parent, asked, wanted.answer_tokens, self._hardware, self._progress)

    def _asked_before(self, interview: Interview) -> list[str]:
        """Return the answers of the model before training; asked once, and kept with the state."""
        return interview.ask_once(load_model(self._parent).to(self._hardware.device), self.folder)

    @property
    def _origin(self) -> str:
        """Return where the run began, as its record names it."""
        family = self._configuration.model.new
        return str(self._parent.path.resolve()) if family is None else f"new {family}"

    def _how(self, outcome: Outcome, before: Figures, after: Figures) -> dict[str, Any]:
        """Return the record of the stage: plain JSON."""
        run, data, adapter = outcome.run, self._data, self._configuration.adapter
        files = [*self._section.files, *self._section.evaluation_files]
        return {
            "run": self.key,
            "method": self._configuration.method,
            **({} if adapter is None else {"rank": adapter.rank}),
            **({} if self._teacher is None else {"teacher_digest": self._teacher_digest}),
            **({"new": self._new} if self._new else {}),
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

    def _files(self, out: Path, outcome: Outcome, how: dict[str, Any]) -> dict[str, bytes | None]:
        """Return what lies beside the weights; the parent's card stays, under another name."""
        parent, curve = self._parent, outcome.run.curve
        text = self._configuration.text
        licence = self._configuration.model.licence or parent.licence
        title = f"{out.name}: {self._configuration.method}"
        files: dict[str, bytes | None] = {
            "README.md": card(out.name, Path(self._origin).name, licence, how, text),
            "training.toml": text.encode(),
            "training.jsonl": as_lines(curve),
            "training.png": draw(curve, title, self._drawn),
        }
        if (parent.path / "README.md").is_file():
            files["README.parent.md"] = (parent.path / "README.md").read_bytes()
        return files

    @property
    def _drawn(self) -> Figure:
        return Figure("evaluation_loss", figures.loss_name(self._configuration.to_dict()))


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


def _count(checkpoint: Checkpoint, key: str) -> int:
    value = checkpoint.config.get(key)
    if type(value) is not int or value < 1:
        raise InputError(f"{checkpoint.path / 'config.json'} has no {key}")
    return value
