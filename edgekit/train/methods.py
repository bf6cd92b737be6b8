"""How a configuration wants a model trained: what learns, beside what, and from which lesson.

What it asks of the model is checked against the names in the checkpoint, before any data is read.
It runs no step and writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.errors import InputError
from edgekit.progress import Progress
from edgekit.train.configuration import Configuration
from edgekit.train.dataset import DataSet, Part
from edgekit.train.frozen import OUTSIDE, Learns, learning
from edgekit.train.guided import GuidedSupervision, require_same_tokens
from edgekit.train.hardware import Hardware
from edgekit.train.lora import HEAD
from edgekit.train.memory import checkpoint_gradients, quantise_matrices, require_quantisation
from edgekit.train.preference import PreferenceLesson
from edgekit.train.preference_examples import pair_lengths
from edgekit.train.supervised import Supervision
from edgekit.train.teacher import Teacher
from edgekit.train.team import ALONE, Team
from edgekit.train.trained import Trained, choose


class Methods:
    """What is done to the model of `parent`, as `configuration` says."""

    def __init__(
        self, configuration: Configuration, parent: Checkpoint, teacher: Checkpoint | None,
        context: int, hardware: Hardware, team: Team = ALONE,
    ) -> None:  # fmt: skip
        """`context` is the most tokens of an example. Raises InputError for what does not fit the
        model or the team, with file, line and key; MissingExtraError without bitsandbytes where it
        is needed.
        """
        self._configuration, self._parent = configuration, parent
        self._context, self._hardware, self._team = context, hardware, team
        self._require_alone()
        self._learns = self._choice()
        self._teacher = None
        if teacher is not None:
            with self._named("teacher", "checkpoint"):
                self._require_teacher(teacher)
            self._teacher = Teacher(teacher, None, hardware)
        if self._is_quantised:
            require_quantisation()

    @property
    def _is_quantised(self) -> bool:
        adapter = self._configuration.adapter
        return adapter is not None and adapter.base == "nf4"

    def _require_alone(self) -> None:
        """Raise InputError for what one process alone can train, if this is one of several."""
        wanted = self._configuration
        alone = {
            ("preference", "beta"): wanted.preference is not None,
            ("teacher", "checkpoint"): wanted.teacher is not None,
            ("adapter", "base"): self._is_quantised,
        }
        for (section, key), is_wanted in alone.items():
            if is_wanted and self._team.size > 1:
                raise InputError(
                    f"{wanted.where(section, key)} is trained by one process, and torchrun "
                    f"started {self._team.size}",
                    hint="run edgekit train without torchrun",
                )

    def begin(self) -> tuple[Any, Trained]:
        """Return the model on the CPU, ready to be trained, and what of it learns."""
        model = load_model(self._parent)
        if self._is_quantised:  # which happens on the way to the device
            quantise_matrices(model, self._hardware.bf16)
            model = model.to(self._hardware.device)
        trained = self._chosen(model)
        if self._configuration.train.gradient_checkpointing:
            checkpoint_gradients(model)
        return model, trained

    def unquantised(self) -> Any:
        """Return the model as it was before training; None if it was trained as it is.

        Adapters that were trained beside 4-bit weights are kept or merged with the real ones: what
        those lost has no part in the result.
        """
        if not self._is_quantised:
            return None
        return load_model(self._parent).to(self._hardware.device)

    def moved(self, trained: Trained, model: Any) -> Trained:
        """Return what learnt, put into `model`."""
        values = trained.values()
        found = self._chosen(model)
        found.restore(values)
        return found

    def lesson(
        self, model: Any, data: DataSet, *, alone: bool = False
    ) -> Supervision | PreferenceLesson:
        """Return what is to be learnt, by the whole team or by this process `alone`."""
        wanted, common = self._configuration, (model, data, self._context, self._hardware)
        if wanted.preference is not None:
            return PreferenceLesson(*common, wanted.preference.beta)
        if wanted.teacher is not None and self._teacher is not None:
            teacher = wanted.teacher
            return GuidedSupervision(*common, self._teacher, teacher.weight, teacher.temperature)
        return Supervision(*common, ALONE if alone else self._team)

    def _chosen(self, model: Any) -> Trained:
        wanted, adapter = self._configuration, self._configuration.adapter
        if adapter is None:
            return choose(model, wanted.method, learns=self._learns)
        scale, seed = adapter.alpha / adapter.rank, wanted.train.seed
        return choose(model, "lora", adapter.rank, seed, scale, self._learns)

    def _choice(self) -> Learns:
        """Return what says of a name whether it may learn. Raises InputError."""
        wanted, names = self._configuration, list(self._parent.tensors)
        with self._named("train", "freeze"):
            if wanted.adapter is not None:
                names = self._matrices()
                _require_layers(wanted.train.freeze)
            may = learning(wanted.train.freeze, names)
        patterns = () if wanted.adapter is None else wanted.adapter.layers
        if not patterns:
            return may
        with self._named("adapter", "layers"):
            _require_matches(patterns, [name for name in names if may(name)])
        return lambda name: may(name) and _matches(name, patterns)

    def _matrices(self) -> list[str]:
        """Return the names of the matrices that could have an adapter."""
        tensors = self._parent.tensors
        found = (n.removesuffix(".weight") for n, i in tensors.items() if len(i.shape) == 2)
        return [n for n in found if n != HEAD and not OUTSIDE["embeddings"].search(n)]

    def _require_teacher(self, teacher: Checkpoint) -> None:
        require_same_tokens(self._parent, teacher)
        longest = teacher.config.get("max_position_embeddings")
        if type(longest) is int and longest < self._context:
            raise InputError(
                f"{teacher.path} was made for {longest} tokens, and the window has {self._context}",
                hint="lower [data] context, or choose another teacher",
            )

    @contextmanager
    def _named(self, section: str, key: str) -> Iterator[None]:
        """Put file, line and key before a complaint."""
        try:
            yield
        except InputError as error:
            where = self._configuration.where(section, key)
            raise InputError(f"{where} {error.message}", error.hint) from error


def prepare_lesson(
    lesson: Supervision | PreferenceLesson, folder: Path | None, progress: Progress
) -> None:
    """Let a lesson that compares with the model before training ask it; see `ask_reference`.

    `folder` None: the model is only judged.
    """
    if isinstance(lesson, PreferenceLesson):
        if folder is None:
            lesson.ask_evaluation_reference()
        else:
            lesson.ask_reference(folder, progress)


def piece_lengths(configuration: Configuration, part: Part) -> Sequence[int]:
    """Return the tokens of each piece that a step's batch is made of."""
    return part.lengths if configuration.preference is None else pair_lengths(part)


def _require_layers(frozen: Sequence[str]) -> None:
    if found := next((part for part in frozen if part in OUTSIDE), None):
        raise InputError(
            f"names {found!r}, which has no adapter: with [adapter] only layers can be frozen"
        )


def _require_matches(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_matches(name, (pattern,)) for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise InputError(f"names {pattern!r:.60}, which no matrix is like; there are: {known}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a matrix's whole name, or the last part of it, is like one of `patterns`."""
    last = name.rpartition(".")[2]
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (name, last))
