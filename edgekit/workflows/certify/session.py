"""One check from beginning to end: the stages in order, and what each needs of the others.

A stage that cannot be looked at is reported as such and does not end the check.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from converters.architectures import ModelShape, TensorSpec, describe
from converters.checkpoint import Checkpoint
from converters.reference import (
    WINDOW_TOKENS,
    Passage,
    Reference,
    load_tokenizer,
    measure_reference,
)
from converters.special_tokens import special_tokens, token_ids
from edgekit.artifact import Artifact
from edgekit.certificate import Certificate, StageReport
from edgekit.errors import EdgekitError, InputError
from edgekit.progress import Progress
from edgekit.store import cache
from edgekit.workflows.certify import chain, engine, exported, figures, greedy, passages, questions
from edgekit.workflows.certify.stored import Floats, ModelFile, open_file
from edgekit.workflows.certify.torch_pass import TorchModel
from edgekit.workflows.certify.verdicts import loaded_report, quantised_report
from edgekit.workflows.certify.weights import TensorReport, compare_all, head_specs
from runtimes.load import load

BUILT_IN_WINDOWS = 2
SAMPLE_WINDOWS, SAMPLE_TOKENS = 2, 128
LONG_TOKENS, LONGER_TOKENS = 1024, 2048


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure: on a `text` of the user's or on the built-in ones. `full` runs torch over
    whole windows, takes a longer text and asks the questions; `generation` only asks them."""

    text: Path | None = None
    full: bool = False
    generation: bool = False


class Session:
    """Runs a check; afterwards `stages`, `tensors` and `certificate` hold what was found.

    `certificate` is None where nothing could be measured; it does not hold the stages yet.
    """

    def __init__(
        self, artifact: Artifact, checkpoint: Checkpoint, wanted: Wanted, progress: Progress
    ) -> None:
        self.stages: list[StageReport] = []
        self.tensors: list[TensorReport] = []
        self.certificate: Certificate | None = None
        self._artifact = artifact
        self._checkpoint = checkpoint
        self._wanted = wanted
        self._progress = progress
        self._cache = cache() / "references"
        self._asked_questions = questions.questions() if wanted.full or wanted.generation else []
        self._unmeasured = ""

    def run(self) -> None:
        """Judge every stage. Raises InputError for a text of the user's that cannot be read."""
        asked = self._asked()
        self._judge_chain(asked)
        shape = self._shape()
        file = self._judge_export(shape)
        heard = self._listen(asked)
        self._judge_weights(shape, file, asked, heard)

    def _asked(self) -> engine.Asked | None:
        """Return what to ask, with the checkpoint's own answers; None where it gives none.

        `_unmeasured` then says why.
        """
        own = None if self._wanted.text is None else passages.user_passage(self._wanted.text)
        if own is not None and not own.text.strip():
            raise InputError(f"{self._wanted.text} holds no text", hint="give a longer text")
        try:
            texts = passages.built_in_passages(self._checkpoint) if own is None else [own]
            windows = BUILT_IN_WINDOWS if own is None else None
            return self._ask(self._measure(texts, WINDOW_TOKENS, windows))
        except EdgekitError as error:
            self._unmeasured = error.message
        except Exception as error:  # transformers and Jinja raise anything over a bad checkpoint
            self._unmeasured = f"{type(error).__name__}: {error}"
        return None

    def _measure(self, texts: list[Passage], tokens: int, windows: int | None) -> Reference:
        return measure_reference(
            self._checkpoint,
            texts + passages.parity_passages(),
            self._cache,
            self._progress,
            windows_per_kind=windows,
            window_tokens=tokens,
        )

    def _ask(self, reference: Reference) -> engine.Asked:
        checkpoint = self._checkpoint
        return engine.Asked(
            reference=reference,
            long=self._long(),
            samples=self._samples(reference),
            greedy=[engine.prompt_ids(checkpoint, prompt) for prompt in greedy.PROMPTS],
            greedy_tokens=greedy.TOKENS,
            questions=[engine.prompt_ids(checkpoint, q.question) for q in self._asked_questions],
            question_tokens=questions.TOKENS,
        )

    def _long(self) -> Reference | None:
        """Return the reference on one long window, None where the context is too short for it."""
        wanted = LONGER_TOKENS if self._wanted.full else LONG_TOKENS
        context = self._artifact.manifest.context_length
        if self._wanted.text is not None or context < LONG_TOKENS:
            return None
        return self._measure(passages.long_passages(), min(wanted, context), 1)

    def _samples(self, reference: Reference) -> dict[int, int]:
        """Return which windows torch runs again on the stored weights, and how much of them."""
        first: dict[str, int] = {}
        for index, window in enumerate(reference.windows):
            first.setdefault(window.kind, index)
        chosen = list(first.values())
        if self._wanted.full:
            return {index: len(reference.windows[index].token_ids) for index in chosen}
        return {
            index: min(SAMPLE_TOKENS, len(reference.windows[index].token_ids))
            for index in chosen[:SAMPLE_WINDOWS]
        }

    def _judge_chain(self, asked: engine.Asked | None) -> None:
        try:
            links = chain.ancestry(self._checkpoint)
        except EdgekitError as error:
            self.stages.append(StageReport("source", False, error.message))
            return
        windows = [] if asked is None else sampled(asked)
        self.stages += chain.judge(links, windows, self._progress)
        if asked is None and all(report.ok is not False for report in self.stages):
            self.stages[-1] = replace(self.stages[-1], ok=False, what=self._unmeasured)

    def _shape(self) -> ModelShape | None:
        try:
            return describe(self._checkpoint)
        except EdgekitError:
            return None  # said by the stage of the checkpoint

    def _judge_export(self, shape: ModelShape | None) -> ModelFile | None:
        """Add the stage of the export; return the file as far as it can be read."""
        if shape is None:
            self.stages.append(StageReport("exported", None, NOT_JUDGED))
            return None
        try:
            file = open_file(self._artifact, shape)
        except EdgekitError as error:
            self.stages.append(StageReport("exported", False, error.message))
            return None
        wrong = exported.complaints(self._artifact, file, self._checkpoint, shape)
        agrees = "hyperparameters, tokenizer, special tokens and chat template agree"
        self.stages.append(StageReport("exported", not wrong, "; ".join(wrong) or agrees))
        return file

    def _listen(self, asked: engine.Asked | None) -> engine.Heard | str:
        """Return what the artifact's engine says, or in words why it says nothing."""
        if asked is None:
            return ""
        try:
            runtime = load(self._artifact, context_length=self._context_length(asked))
        except EdgekitError as error:
            return f"the engine cannot open it: {error.message}"
        try:
            return engine.listen(asked, self._checkpoint, runtime, self._progress)
        except EdgekitError as error:
            return f"the engine fails: {error.message}"
        finally:
            runtime.close()

    def _context_length(self, asked: engine.Asked) -> int:
        longest = max(len(window.token_ids) for window in asked.reference.windows)
        if asked.long is not None:
            longest = max(longest, len(asked.long.windows[0].token_ids))
        prompts = [len(p) + asked.greedy_tokens for p in (*asked.greedy, *asked.questions)]
        return min(self._artifact.manifest.context_length, max(longest, *prompts))

    def _judge_weights(
        self,
        shape: ModelShape | None,
        file: ModelFile | None,
        asked: engine.Asked | None,
        heard: engine.Heard | str,
    ) -> None:
        """Run torch, first on the checkpoint, then on the stored weights; add the last stages."""
        model = None if asked is None or shape is None else self._model()
        if asked is not None and not isinstance(heard, str):
            self._certify(asked, heard, model)
        logits: list[Floats] = []
        if file is not None and shape is not None:
            self.tensors = self._compare(shape, file, model)
            complete = len(self.tensors) == sum(1 for _ in shape.tensors())
            if model is not None and asked is not None and complete:
                logits = [model.logits(ids) for ids in sampled(asked)]
        self.stages.append(quantised_report(self.tensors, asked, logits, read=file is not None))
        self.stages.append(loaded_report(self.tensors, asked, heard, logits))

    def _model(self) -> TorchModel | None:
        try:
            return TorchModel(self._checkpoint)
        except Exception:  # said by the stage of the checkpoint: the reference came from a cache
            return None

    def _compare(
        self, shape: ModelShape, file: ModelFile, model: TorchModel | None
    ) -> list[TensorReport]:
        def keep(spec: TensorSpec, values: Floats) -> None:
            if model is not None:
                model.put(spec, values)

        reports = compare_all(file, self._checkpoint, shape, self._progress, keep)
        head = file.tensor(head_specs(shape)[0]) if shape.tied_embeddings else None
        if head is not None and model is not None:
            model.put_head(head.values)
        return reports

    def _certify(self, asked: engine.Asked, heard: engine.Heard, model: TorchModel | None) -> None:
        found = figures.certificate(
            self._artifact.manifest.source.checkpoint_digest,
            asked.reference,
            heard.measured.comparisons,
            token_ids_equal=not heard.other_ids and not heard.other_prompts,
        )
        if found is None:
            return
        if heard.long is not None and np.isfinite(heard.long.divergence).all():
            found.by_kind.update(figures.long_figures(heard.long))
        if model is not None:
            found = self._with_answers(found, asked, heard, model)
        self.certificate = found

    def _with_answers(
        self, found: Certificate, asked: engine.Asked, heard: engine.Heard, model: TorchModel
    ) -> Certificate:
        """Return the certificate with what both sides answer; `model` is still the checkpoint."""
        tokenizer = load_tokenizer(self._checkpoint)
        rows = self._artifact.manifest.vocabulary_size
        stops = special_tokens(self._checkpoint, token_ids(self._checkpoint), rows).stop
        tokens = asked.greedy_tokens
        parted = greedy.greedy(model, tokenizer, asked.greedy, heard.greedy, stops, tokens)
        found = replace(found, greedy=parted)
        if not asked.questions:
            return found

        def answer(prompt: questions.Prompt) -> str:
            ids = model.greedy(prompt, asked.question_tokens, stops)
            return str(tokenizer.decode(ids, skip_special_tokens=False))

        ours = questions.source_answers(
            self._checkpoint, asked.questions, answer, self._cache, self._progress
        )
        theirs = [text for text, _ in heard.answers]
        scores = questions.score(self._asked_questions, ours, theirs)
        return replace(found, generation=scores)


def sampled(asked: engine.Asked) -> list[tuple[int, ...]]:
    """Return the token ids of the beginning of each window that is looked at again."""
    return [
        asked.reference.windows[index].token_ids[:count] for index, count in asked.samples.items()
    ]


NOT_JUDGED = "not looked at: the checkpoint is broken"
