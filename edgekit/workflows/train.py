"""train: a configuration, a checkpoint and data become a trained checkpoint.

Everything is checked before the first step. What a run needs to go on after a kill lies in the
cache, under a name that stands for all that decides what comes out of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.lineage import Stage, read_stage
from converters.recipe import Recipe
from converters.reference import load_model
from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.errors import InputError
from edgekit.files import FolderExistsError, Waiting, file_lock, require_space
from edgekit.progress import Progress
from edgekit.store import cache, find_checkpoint
from edgekit.task import TASK_KINDS
from edgekit.train.card import card
from edgekit.train.configuration import Configuration, DataSection
from edgekit.train.curve import TRAINING_FIGURE, as_lines, draw
from edgekit.train.dataset import DataSet, data_files, digest_of, read_data
from edgekit.train.examples import ChatEncoder, Encoder, TextEncoder
from edgekit.train.hardware import Hardware
from edgekit.train.kept_data import load_data, save_data
from edgekit.train.loop import NoHelpError, Outcome, Settings, Tell, saved_step, train
from edgekit.train.order import batches
from edgekit.train.result import round_weights, write_result
from edgekit.train.schedule import Budget
from edgekit.train.supervised import Supervision
from edgekit.train.trained import choose, finish
from edgekit.workflows.conversion import Request, folder_in_store, run_request

VERSION = 1  # of what a state means: another one goes on with no state of this one
DEFAULT_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run will do, known before its first step. `steps` is None where minutes end it.
    `resumed_step`: where an interrupted run goes on, None for a new one."""

    parent: Checkpoint
    context: int
    data: DataSet
    digest: str
    steps: int | None
    resumed_step: int | None


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The checkpoint that was written, and the record of its making: see `_how`.

    `already_there`: an earlier call of the same command had finished it.
    """

    checkpoint: Checkpoint
    how: dict[str, Any]
    already_there: bool


def prepare_training(configuration: Configuration, progress: Progress) -> Prepared:
    """Check configuration, checkpoint and data, and say what a run would do. Writes nothing.

    Raises InputError for anything wrong.
    """
    return _job(configuration, progress).prepared


def run_training(
    configuration: Configuration,
    out: Path,
    *,
    progress: Progress,
    tell: Tell = lambda _words: None,
    announce: Callable[[Prepared], None] = lambda _prepared: None,
    replace: bool = False,
    waiting: Waiting = nullcontext,
) -> FineTuned:
    """Train as `configuration` says, and write the result into the folder `out`.

    `announce` is told what the run will do, `tell` how it stands after each step. Killed at any
    moment, the same call goes on where it was; a call that had finished is not run again.

    Raises InputError for bad configuration, checkpoint or data, before the first step, and where
    `out` exists, from another run, and `replace` is false; GateError where training makes nothing
    better, or the disk is full: then nothing is written, and the last state stays.
    """
    job = _job(configuration, progress)
    with file_lock(job.folder.parent / f".{job.folder.name}.lock", waiting):
        if out.exists() and not replace:
            trained = job.finished(out)
        else:
            announce(job.prepared)
            trained = job.run(out, replace, tell)
        shutil.rmtree(job.folder, ignore_errors=True)  # a kill may have come before this
    return trained


def _job(configuration: Configuration, progress: Progress) -> Job:
    if configuration.data.kind in TASK_KINDS:
        from edgekit.workflows.train_heads import HeadJob

        return HeadJob(configuration, progress)
    return Job(configuration, progress)


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
    """One run: what it is made from, and the steps from there to a checkpoint."""

    def __init__(self, configuration: Configuration, progress: Progress) -> None:
        self._configuration, self._progress = configuration, progress
        self._hardware = Hardware.detect()
        try:
            self._parent = Checkpoint.open(find_checkpoint(self._checkpoint_name()))
        except InputError as error:
            where = configuration.where("model", "checkpoint")
            raise InputError(f"{where}: {error.message}", error.hint) from error
        except (OSError, RuntimeError) as error:  # a name that is too long, a user there is not
            where = configuration.where("model", "checkpoint")
            raise InputError(f"{where} is no name of a folder: {error.args[-1]}") from error
        self._check_model()
        self._parent_digest = self._parent.digest()
        self._context = self._window()
        self._digest = digest_of(self._section, progress)

    def _check_model(self) -> None:
        """Raise InputError if the checkpoint cannot be trained so."""
        describe(self._parent)  # packing is proved for these families; others could leak

    def _checkpoint_name(self) -> str:
        """Return a folder beside the configuration, or what was named."""
        named = self._configuration.model.checkpoint
        beside = self._configuration.path.parent / named
        return str(beside) if (beside / "config.json").is_file() else named

    def _window(self) -> int:
        longest, wanted = _count(self._parent, "max_position_embeddings"), self._section.context
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
        return read_data(section, self._encoder(), vocabulary, cache() / "training", self._progress)

    @property
    def _section(self) -> DataSection:
        return self._configuration.data

    def _encoder(self) -> Encoder:
        section = self._section
        if section.kind == "chat":
            return ChatEncoder(self._parent, self._context, section.too_long)
        try:
            return TextEncoder(self._parent, self._context, section.end_of_text)
        except InputError as error:
            where = self._configuration.where("data", "end_of_text")
            raise InputError(f"{where}: {error.message}", error.hint) from error

    @cached_property
    def _key(self) -> str:
        """Return a name for this run: all that decides what comes out of it."""
        parent = self._parent
        # The digest of a checkpoint leaves out its template and the tokens that end an answer.
        said = [parent.chat_template, parent.tokenizer_config, parent.generation_config]
        parts = [VERSION, self._parent_digest, said, self._digest, self._hardware.device,
                 self._context, self._configuration.to_dict()]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def folder(self) -> Path:
        """Return where the state of the run is kept."""
        return cache() / "training" / f"run-{self._key}"

    @cached_property
    def _steps(self) -> int | None:
        wanted, part = self._configuration.train, self._data.training
        limits = [] if wanted.steps is None else [wanted.steps]
        if wanted.epochs is not None:
            limits.append(steps_of(part.lengths, wanted.batch_tokens, wanted.seed, wanted.epochs))
        return min(limits) if limits else None

    @property
    def prepared(self) -> Prepared:
        """Return what the run will do."""
        step = saved_step(self.folder)
        return Prepared(self._parent, self._context, self._data, self._digest, self._steps, step)

    def finished(self, out: Path) -> FineTuned:
        """Return what an earlier call left in `out`. Raises FolderExistsError if it is not that."""
        if (out / "config.json").is_file():
            checkpoint = Checkpoint.open(out)
            stage = read_stage(checkpoint)
            if stage is not None and stage.kind == "trained" and stage.how.get("run") == self._key:
                return FineTuned(checkpoint, stage.how, already_there=True)
        raise FolderExistsError(
            f"{out} exists already, and not from this configuration and data",
            hint="choose another folder, or --replace",
        )

    def run(self, out: Path, replace: bool, tell: Tell) -> FineTuned:
        wanted = self._configuration.train
        weights_bytes = sum(info.bytes for info in self._parent.tensors.values())
        require_space(out.absolute().parent, weights_bytes)  # told now, not after the training
        save_data(self.folder, self._data)
        model = load_model(self._parent).to(self._hardware.device)
        adapter = self._configuration.adapter
        rank = 0 if adapter is None else adapter.rank
        trained = choose(model, self._configuration.method, rank, wanted.seed)
        lesson = Supervision(model, self._data, self._context, self._hardware)
        settings = Settings(
            Budget(self._steps, wanted.minutes), self._configuration.learning_rate,
            wanted.batch_tokens, wanted.clip, wanted.seed,
            self._configuration.evaluate.times, wanted.save_seconds,
        )  # fmt: skip
        outcome = train(lesson, trained, settings, self.folder, self._progress, tell)
        finish(model, trained)
        round_weights(model, self._parent)
        with self._progress.task("judging the trained model", 1, "passes") as advance:
            after = lesson.judge()
            advance(1)
        how = self._how(outcome, after)
        require_better(how)
        stage = Stage("trained", str(self._parent.path.resolve()), self._parent_digest, how)
        files = self._files(out, outcome, how)
        checkpoint = write_result(self._parent, model, out, stage, files, self._progress, replace)
        return FineTuned(checkpoint, how, already_there=False)

    def _how(self, outcome: Outcome, after: dict[str, float]) -> dict[str, Any]:
        """Return the record of the stage: plain JSON."""
        run, data, adapter = outcome.run, self._data, self._configuration.adapter
        before = run.judged[0]
        files = [*self._section.files, *self._section.evaluation_files]
        return {
            "run": self._key,
            "method": self._configuration.method,
            **({} if adapter is None else {"rank": adapter.rank}),
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
            "before": _figures(before),
            "after": _figures(after),
            "stopped": outcome.stopped,
        }

    def _files(self, out: Path, outcome: Outcome, how: dict[str, Any]) -> dict[str, bytes | None]:
        """Return what lies beside the weights; the parent's card stays, under another name."""
        parent, curve = self._parent, outcome.run.curve
        text = self._configuration.text
        title = f"{out.name}: {self._configuration.method}"
        files: dict[str, bytes | None] = {
            "README.md": card(out.name, parent.path.resolve().name, parent.licence, how, text),
            "training.toml": text.encode(),
            "training.jsonl": as_lines(curve),
            "training.png": draw(curve, title, TRAINING_FIGURE),
        }
        if (parent.path / "README.md").is_file():
            files["README.parent.md"] = (parent.path / "README.md").read_bytes()
        return files


def _figures(entry: dict[str, float]) -> dict[str, float]:
    return {"loss": entry["evaluation_loss"], "perplexity": entry["evaluation_perplexity"]}


def require_better(how: dict[str, Any]) -> None:
    """Raise NoHelpError if the model does no better on what was held out than before."""
    before, after = how["before"]["loss"], how["after"]["loss"]
    if not after < before:
        why = how["stopped"] or f"after {how['steps']} steps"
        raise NoHelpError(
            f"training did not help: the evaluation loss was {before:.4f} and is {after:.4f} "
            f"({why}); nothing is written",
            hint="try more steps, more data, or another learning rate",
        )


def steps_of(lengths: Sequence[int], batch_tokens: int, seed: int, epochs: float) -> int:
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
