"""Distillation: a student learns to predict what a teacher predicts.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, on the
teacher's most likely tokens. It knows nothing of pruning, or where the text comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.progress import Progress
from edgekit.train.hardware import Hardware
from edgekit.train.held_out import HeldOut, judge
from edgekit.train.loop import Outcome, Settings, train
from edgekit.train.loss import divergence
from edgekit.train.order import blocks
from edgekit.train.taught import TaughtText
from edgekit.train.trained import Trained


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

    "Best" is by the divergence on `held_out`. See `edgekit.train.loop.train` for what is kept in
    `folder` and for the errors.
    """
    return train(Distillation(model, text, held_out, hardware), trained, settings, folder, progress)


class Distillation:
    """The lesson: be as close to the teacher's answers as you can."""

    name = "healing"
    figure, figure_name = "validation_kld", "divergence"
    diverged = 3.0  # no learning rate brings that back

    def __init__(self, model: Any, text: TaughtText, held_out: HeldOut, hardware: Hardware) -> None:
        self.lengths = text.lengths
        self._model, self._text, self._held_out, self._hardware = model, text, held_out, hardware

    def backward(self, batch: list[int]) -> float:
        """Add up the gradients of the mean divergence over all positions; return that mean."""
        positions = sum(self.lengths[i] for i in batch)
        vocabulary = self._model.config.vocab_size
        total = 0.0
        for block in blocks(batch, self.lengths, self._hardware.logits_at_once // vocabulary):
            part = self._text.block(block, self._hardware)
            with self._hardware.autocast():
                # Padding is on the right, where causal attention hides it from what is real.
                logits = self._model(part.token_ids, use_cache=False).logits
            loss = divergence(part.teacher, logits)[part.is_real].sum() / positions
            loss.backward()
            total += float(loss.detach())
        return total

    def judge(self) -> dict[str, float]:
        """Return the divergence from the teacher and the perplexity."""
        marks = judge(self._model, self._held_out, self._hardware, lambda _tokens: None)["all"]
        return {"validation_kld": marks.kld, "validation_perplexity": marks.perplexity}

    def place(self, batch: list[int]) -> str:
        """Return nothing: the text was written for this, and has no lines to look at."""
        return ""
