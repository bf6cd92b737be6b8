"""Held-out text: what a model is judged by and never trained on, and how it does there.

The teacher's side is kept compactly (see `converters.divergence`), so that judging needs the
student alone. It knows nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.divergence import CompactRows, Comparison, compact, compare, join
from converters.reference import Window, targets
from edgekit.progress import Advance
from edgekit.tensors_file import load_tensors, save_tensors
from edgekit.train.hardware import Hardware

if TYPE_CHECKING:
    import torch

LARGEST_SURPRISE = 700.0  # nats: beyond it exp overflows, and no figure means anything


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Windows of the student's token ids, each of two or more, and the teacher's answers there:
    `rows` has all positions but the last of each window, in order."""

    windows: tuple[Window, ...]
    rows: CompactRows

    @property
    def tokens(self) -> int:
        """Return how many tokens it has."""
        return sum(len(window.token_ids) for window in self.windows)

    def save(self, path: Path) -> None:
        """Write it to `path`, atomically."""
        import torch

        tensors = {f.name: torch.from_numpy(getattr(self.rows, f.name)) for f in fields(self.rows)}
        windows = [[window.kind, list(window.token_ids)] for window in self.windows]
        save_tensors(path, tensors, {"windows": windows})

    @classmethod
    def load(cls, path: Path) -> HeldOut | None:
        """Return what was saved to `path`; None if it is absent or damaged."""
        found = load_tensors(path)
        if found is None:
            return None
        tensors, document = found
        rows = CompactRows(*(tensors[field.name].numpy() for field in fields(CompactRows)))
        return cls(tuple(Window(kind, tuple(ids)) for kind, ids in document["windows"]), rows)


@dataclass(frozen=True, slots=True)
class Marks:
    """How a model did: the mean divergence from the teacher in nats and its standard error, how
    often both have the same top token, and the perplexity of the text under the model."""

    positions: int
    kld: float
    kld_standard_error: float
    top1_agreement: float
    perplexity: float


def ask_teacher(
    windows: Sequence[Window], logits_of: Any, advance: Advance, seed: int = 0
) -> HeldOut:
    """Return `windows` with the teacher's answers.

    `logits_of` maps token ids to the logits of each position, float32 [length, vocabulary].
    """
    rng = np.random.default_rng(seed)
    kept = tuple(window for window in windows if len(window.token_ids) > 1)
    parts = []
    for window in kept:
        parts.append(compact(logits_of(window.token_ids)[:-1], targets(window), rng))
        advance(len(window.token_ids))
    return HeldOut(kept, join(parts))


def judge(model: Any, held_out: HeldOut, hardware: Hardware, advance: Advance) -> dict[str, Marks]:
    """Return the marks of `model` on each kind of `held_out`, and on all of it as "all"."""
    kinds: dict[str, list[Comparison]] = {"all": []}
    first = 0
    for window in held_out.windows:
        logits = student_logits(model, window.token_ids, hardware)[:-1]
        rows = held_out.rows.part(first, first + len(logits))
        comparison = compare(rows, logits, targets(window))
        for kind in (window.kind, "all"):
            kinds.setdefault(kind, []).append(comparison)
        first += len(logits)
        advance(len(window.token_ids))
    return {kind: _marks(parts) for kind, parts in kinds.items()}


def teacher_perplexity(held_out: HeldOut) -> dict[str, float]:
    """Return the perplexity of each kind under the teacher, and of all of it as "all"."""
    kinds: dict[str, list[NDArray[np.float32]]] = {"all": []}
    first = 0
    for window in held_out.windows:
        end = first + len(window.token_ids) - 1
        for kind in (window.kind, "all"):
            kinds.setdefault(kind, []).append(held_out.rows.target_log[first:end])
        first = end
    return {kind: _perplexity(np.concatenate(parts)) for kind, parts in kinds.items()}


def student_logits(model: Any, token_ids: Sequence[int], hardware: Hardware) -> NDArray[np.float32]:
    """Return the logits of every position, float32 [length, vocabulary]."""
    import torch

    ids = torch.tensor([list(token_ids)], device=hardware.device)
    with torch.inference_mode(), hardware.autocast():
        logits: torch.Tensor = model(ids, use_cache=False).logits[0]
    array: NDArray[np.float32] = logits.float().cpu().numpy()
    return array


def plain(marks: dict[str, Marks]) -> dict[str, dict[str, float]]:
    """Return marks as plain JSON."""
    return {kind: asdict(mark) for kind, mark in marks.items()}


def _marks(parts: Iterable[Comparison]) -> Marks:
    comparisons = list(parts)
    divergence = np.concatenate([c.divergence for c in comparisons])
    return Marks(
        positions=len(divergence),
        kld=float(divergence.mean()),
        kld_standard_error=float(divergence.std() / np.sqrt(len(divergence))),
        top1_agreement=float(np.concatenate([c.same_top1 for c in comparisons]).mean()),
        perplexity=_perplexity(np.concatenate([c.target_log for c in comparisons])),
    )


def _perplexity(log_probabilities: NDArray[np.float32]) -> float:
    surprise = -float(log_probabilities.astype(np.float64).mean())
    return math.exp(min(surprise, LARGEST_SURPRISE))
