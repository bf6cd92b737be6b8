"""A run that trains a language model: chats, texts, preferences, with a teacher, from nothing.

What a run is, and how it is kept and found finished, is `edgekit.workflows.training_job`'s.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.lineage import Stage
from converters.reference import load_model
from edgekit.errors import InputError
from edgekit.files import require_space
from edgekit.progress import Progress
from edgekit.store import cache
from edgekit.train import figures
from edgekit.train.answer_figures import require_figures
from edgekit.train.answers import Interview, held_out_questions
from edgekit.train.card import card
from edgekit.train.configuration import Configuration
from edgekit.train.curve import Figure
from edgekit.train.dataset import DataSet, data_files, read_data
from edgekit.train.examples import ChatEncoder, Encoder, TextEncoder
from edgekit.train.kept_data import load_data, save_data
from edgekit.train.loop import Lesson, Outcome, Tell, Watch, train
from edgekit.train.meter import Meter
from edgekit.train.methods import Methods, piece_lengths, prepare_lesson
from edgekit.train.model_section import notes
from edgekit.train.new_model import make_checkpoint, tokenizer_digest, tokenizer_source
from edgekit.train.peft_folder import write_adapter
from edgekit.train.preference_examples import PreferenceEncoder
from edgekit.train.result import round_weights, write_result
from edgekit.train.sharding import on_first, shard
from edgekit.train.team import ALONE
from edgekit.train.trained import Trained, finish
from edgekit.workflows.training_job import DEFAULT_CONTEXT, Figures, FineTuned, Job

NEW = "new"  # the untrained model, in the folder of its run


class LanguageJob(Job):
    """A run that trains a model to say what comes next, or the answer that is preferred."""

    def _check(self) -> None:
        teacher = self._configuration.teacher
        self._teacher = None if teacher is None else self._opened("teacher", teacher.checkpoint)
        self._teacher_digest = (
            "" if self._teacher is None else self._team.from_first(self._teacher.digest)
        )
        if self._configuration.model.new is None:
            self._methods  # noqa: B018 - which complains

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

    def _digest_of_parent(self) -> str:
        """Return what a new model is made from, in place of a digest: it need not be made yet."""
        if self._configuration.model.new is None:
            return super()._digest_of_parent()
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

    def _read(self) -> DataSet:
        section, vocabulary = self._section, _count(self._parent, "vocab_size")
        return read_data(section, self._encoder(), vocabulary, cache() / "training", self._progress)

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

    def _lengths(self) -> Sequence[int]:
        return piece_lengths(self._configuration, self._data.training)

    def _parts(self) -> list[Any]:
        said = []
        if self._configuration.model.new is None:
            # The digest of a checkpoint leaves out its template and the tokens that end an answer.
            parent = self._parent
            said = [parent.chat_template, parent.tokenizer_config, parent.generation_config]
        return [*super()._parts(), said, self._teacher_digest]

    def _notes(self) -> list[str]:
        return [*notes(self._configuration.model), *self._vocabulary_note()]

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

    def run(self, out: Path, replace: bool, tell: Tell) -> FineTuned:
        """Train and write. Only the first process writes, and what it writes all return."""
        team = self._team
        team.from_first(lambda: self._keep_data(out))
        interview = self._interview() if team.is_first else None
        answers = [] if interview is None else self._asked_before(interview)
        outcome, model, trained = self._trained(tell)
        if team.is_first:
            model, trained, before, after = self._judged(outcome, model, trained)
            how = self._record(outcome, before, after, self._more())
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

    def _begun(self, folder: Path) -> tuple[Any, Trained, Lesson, Meter]:
        """Return the model, what of it learns, what it learns, and what measures its speed.

        What the lesson asks the model before training is kept in `folder`.
        """
        methods, team = self._methods, self._team
        model, trained = methods.begin()
        meter = Meter.of(model, self._hardware, team)
        trained = shard(model, trained, team, self._hardware)
        lesson = methods.lesson(model, self._data)
        prepare_lesson(lesson, folder, self._progress)
        return model, trained, lesson, meter

    def _trained(self, tell: Tell) -> tuple[Outcome, Any, Trained]:
        """Train; return the model with the best weights: whole in the first process, if several."""
        team = self._team
        model, trained, lesson, meter = self._begun(self.folder)
        outcome = train(
            lesson, trained, self._settings, self.folder, self._progress, tell, team, meter
        )
        if team.size > 1:
            best = on_first(trained.values(), team)
            if team.is_first:  # who goes on as if it had trained alone
                model, trained = self._methods.begin()
                trained.restore(best)
                model.to(self._hardware.device)
        return outcome, model, trained

    def with_settings(self, configuration: Configuration) -> LanguageJob:
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
        _, trained, lesson, meter = self._begun(folder)
        return train(lesson, trained, self._settings, None, progress, tell, ALONE, meter, watch)

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
        said = self._configuration
        licence = said.model.licence or parent.licence
        text = card(out.name, Path(self._origin).name, licence, how, said.text)
        figure = Figure("evaluation_loss", figures.loss_name(said.to_dict()))
        files = self._files(f"{out.name}: {said.method}", outcome, figure, text)
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

    def _more(self) -> dict[str, Any]:
        """Return what a language model's record has more than others."""
        adapter = self._configuration.adapter
        return {
            **({} if adapter is None else {"rank": adapter.rank}),
            **({} if self._teacher is None else {"teacher_digest": self._teacher_digest}),
            **({"new": self._new} if self._new else {}),
        }


def _count(checkpoint: Checkpoint, key: str) -> int:
    value = checkpoint.config.get(key)
    if type(value) is not int or value < 1:
        raise InputError(f"{checkpoint.path / 'config.json'} has no {key}")
    return value
