"""Distillation: a student learns to predict what a teacher predicts, step by step.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, on the
teacher's most likely tokens. A run may be killed at any moment: the same call goes on from the
last state that was saved. It knows nothing of pruning, or where the text comes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from edgekit.adam import adam_memory, restore_adam
from edgekit.errors import GateError
from edgekit.files import require_space
from edgekit.progress import Advance, Progress
from edgekit.tensors_file import load_tensors, save_tensors
from edgekit.train.hardware import Hardware
from edgekit.train.held_out import HeldOut, judge
from edgekit.train.loss import divergence
from edgekit.train.order import batches, blocks
from edgekit.train.schedule import Budget, learning_rate
from edgekit.train.taught import TaughtText
from edgekit.train.trained import Trained

STATE, BEST = "state.safetensors", "best.safetensors"
STRETCHES = 6  # the held-out text is judged at the end of each
SAVE_S = 180.0
# The state holds three numbers a weight, the best one; a new one stands beside the old one.
FILES_PER_WEIGHT = 8
DIVERGED = 3.0  # times the divergence at the start: no learning rate brings that back


class NoHelpError(GateError):
    """Training made nothing better, and going on with it would not either."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train: `learning_rate` is the peak; `batch_tokens` is what one step learns from, at
    least; `clip` the largest norm of a step's gradient."""

    budget: Budget
    learning_rate: float
    batch_tokens: int = 512
    clip: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class Run:
    """How far a run is. `curve` has one entry a step, and one for each time that the held-out
    text was judged: plain JSON."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    stretch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def judged(self) -> list[dict[str, float]]:
        """Return the entries of the held-out text."""
        return [entry for entry in self.curve if "validation_kld" in entry]

    @property
    def best(self) -> dict[str, float]:
        """Return the best of them; the first is the student before training."""
        return min(self.judged, key=lambda entry: entry["validation_kld"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the model holds the weights of `run.best`. `stopped` says in a sentence why
    it ended before its budget, or is empty."""

    run: Run
    stopped: str


def distil(
    model: Any,
    trained: Trained,
    text: TaughtText,
    held_out: HeldOut,
    settings: Settings,
    folder: Path,
    hardware: Hardware,
    progress: Progress,
) -> Outcome:
    """Train the parameters of `trained` in `model` on `text`; leave the best that was found.

    "Best" is by the divergence on `held_out`, which is judged at the start and STRETCHES times.
    The state is kept in `folder`. On a CPU, a run that was interrupted gives the same weights as
    one that was not. Raises NoHelpError if the run fell apart before anything was better,
    GateError if the disk is too small.
    """
    weights_bytes = sum(value.nbytes for value in trained.values().values())
    require_space(folder, FILES_PER_WEIGHT * weights_bytes)
    trainer = _Trainer(model, trained, text, held_out, settings, folder, hardware)
    trainer.resume()
    stopped = ""
    while not stopped and trainer.done < 1:
        with trainer.stretch(progress) as advance:
            stopped = trainer.train_stretch(advance)
    return Outcome(trainer.run, trainer.keep_best(stopped))


class _Trainer:
    def __init__(
        self, model: Any, trained: Trained, text: TaughtText, held_out: HeldOut,
        settings: Settings, folder: Path, hardware: Hardware,
    ) -> None:  # fmt: skip
        self.run = Run()
        self._model, self._trained, self._text = model, trained, text
        self._held_out, self._settings = held_out, settings
        self._folder, self._hardware = folder, hardware
        self._optimizer = trained.optimizer()
        self._saved = time.monotonic()

    @property
    def done(self) -> float:
        return self._settings.budget.done(self.run.step, self.run.elapsed_s)

    def resume(self) -> None:
        """Go on from the state in the folder; without one, judge the student and save it."""
        found = load_tensors(self._folder / STATE)
        if found is None:
            self._judge()
            return
        tensors, document = found
        self.run = Run(**document)
        self._trained.restore({n: tensors[f"weight.{n}"] for n in self._trained.parameters})
        restore_adam(self._optimizer, self._trained.parameters, tensors)

    def _save(self) -> None:
        tensors = {f"weight.{name}": value for name, value in self._trained.values().items()}
        tensors |= adam_memory(self._optimizer, self._trained.parameters)
        run = self.run
        save_tensors(
            self._folder / STATE,
            tensors,
            {
                "step": run.step,
                "tokens": run.tokens,
                "elapsed_s": run.elapsed_s,
                "stretch": run.stretch,
                "curve": run.curve,
            },
        )
        self._saved = time.monotonic()

    @contextmanager
    def stretch(self, progress: Progress) -> Iterator[Advance]:
        """Tell what follows as one task, in steps or in seconds, by what limits the run."""
        budget = self._settings.budget
        label = f"healing: KL {self.run.judged[-1]['validation_kld']:.4f}{self._last_loss()}"
        end = (self.run.stretch + 1) / STRETCHES
        if budget.steps is not None and budget.minutes is None:
            total, unit = math.ceil(end * budget.steps) - self.run.step, "steps"
        else:
            total, unit = None, "steps"
        with progress.task(label, total, unit=unit) as advance:
            yield advance

    def _last_loss(self) -> str:
        """Return the mean loss of the last steps, as the end of a sentence; empty at the start."""
        losses = [entry["loss"] for entry in self.run.curve if "loss" in entry]
        recent = losses[-max(1, len(losses) // STRETCHES) :]
        return f", loss {fmean(recent):.4f}" if recent else ""

    def train_stretch(self, advance: Advance) -> str:
        """Train to the end of this stretch of the budget, judge, save; say if it fell apart."""
        end = (self.run.stretch + 1) / STRETCHES
        settings = self._settings
        order = batches(self._text.lengths, settings.batch_tokens, settings.seed)
        start = time.monotonic() - self.run.elapsed_s
        for windows in islice(order, self.run.step, None):
            if self.done >= min(end, 1):
                break
            problem = self._step(windows)
            if problem:
                return problem
            self.run.elapsed_s = time.monotonic() - start
            advance(1)
            if time.monotonic() - self._saved > SAVE_S:
                self._save()
        self.run.stretch = max(self.run.stretch + 1, int(self.done * STRETCHES))
        problem = self._judge()
        self.run.elapsed_s = time.monotonic() - start
        return problem

    def _step(self, windows: list[int]) -> str:
        """Learn from `windows`. Returns a sentence if there is nothing left to learn with."""
        import torch

        run, settings = self.run, self._settings
        rate = learning_rate(settings.learning_rate, self.done)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self._backward(windows)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self._trained.parameters.values(), settings.clip)
        )
        if not math.isfinite(loss + norm):
            return f"the loss is no number any more at step {run.step + 1}"
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.tokens += sum(self._text.lengths[i] for i in windows)
        run.curve.append(
            {
                "step": run.step,
                "tokens": run.tokens,
                "loss": loss,
                "learning_rate": rate,
                "gradient_norm": norm,
                "elapsed_s": run.elapsed_s,
            }
        )
        return ""

    def _backward(self, windows: list[int]) -> float:
        """Add up the gradients of the mean divergence over all positions; return that mean."""
        lengths = self._text.lengths
        positions = sum(lengths[i] for i in windows)
        vocabulary = self._model.config.vocab_size
        total = 0.0
        for block in blocks(windows, lengths, self._hardware.logits_at_once // vocabulary):
            part = self._text.block(block, self._hardware)
            with self._hardware.autocast():
                # Padding is on the right, where causal attention hides it from what is real.
                logits = self._model(part.token_ids, use_cache=False).logits
            loss = divergence(part.teacher, logits)[part.is_real].sum() / positions
            loss.backward()
            total += float(loss.detach())
        return total

    def _judge(self) -> str:
        """Judge the held-out text, keep the weights if none were better, save the state."""
        marks = judge(self._model, self._held_out, self._hardware, lambda _tokens: None)["all"]
        run = self.run
        earlier = [entry["validation_kld"] for entry in run.judged]
        if not math.isfinite(marks.kld):
            return f"the divergence is no number any more at step {run.step}"
        run.curve.append(
            {
                "step": run.step,
                "tokens": run.tokens,
                "validation_kld": marks.kld,
                "validation_perplexity": marks.perplexity,
                "elapsed_s": run.elapsed_s,
            }
        )
        if not earlier or marks.kld < min(earlier):
            save_tensors(self._folder / BEST, self._trained.values(), {"step": run.step})
        self._save()
        if earlier and marks.kld > DIVERGED * earlier[0]:
            return f"the divergence rose from {earlier[0]:.4f} to {marks.kld:.4f}"
        return ""

    def keep_best(self, stopped: str) -> str:
        """Put the best weights into the model; return `stopped`."""
        run = self.run
        if stopped and run.best["step"] == 0:
            raise NoHelpError(
                f"{stopped}, and nothing was better before; nothing is written",
                hint=f"try a lower learning rate than {self._settings.learning_rate:g}",
            )
        found = load_tensors(self._folder / BEST)
        if found is None:
            raise GateError(
                f"{self._folder / BEST} is damaged: the healed weights are lost",
                hint=f"remove {self._folder} and run the same command again",
            )
        self._trained.restore(found[0])
        return stopped
