"""What pruning cost: divergence and perplexity on text held out from every choice.

Where the vocabulary is pruned, both models read the text in the new tokens, and the original's
distribution is restricted to them; perplexity is always per token of the original's tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.divergence import CompactRows, compact, compare, log_normaliser
from converters.pruning.running import Ids
from edgekit.progress import Progress


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The original's side of a measurement.

    `windows`: texts in the original's ids, those that are kept only. `rows`: the original's
    distributions over the kept tokens, of all positions but the last of each window.
    `lost_mass`: how much probability the original gives to removed tokens, mean. `tokens` is how
    many tokens the original's tokenizer makes of the texts, without the first of each, and
    `perplexity` the original's on them.
    """

    windows: tuple[Ids, ...]
    kept_ids: NDArray[np.int64] | None
    rows: tuple[CompactRows, ...]
    lost_mass: float
    tokens: int
    perplexity: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How far a model is from the original: mean KL(original || model) in nats per position, the
    share of positions with the same most likely token, perplexity per original token."""

    divergence: float
    top1_agreement: float
    perplexity: float
    positions: int


def yardstick(
    model: Any,
    texts: Sequence[Ids],
    progress: Progress,
    *,
    retold: Sequence[Ids] | None = None,
    kept_ids: NDArray[np.int64] | None = None,
) -> Yardstick:
    """Measure the original transformers `model` on `texts`.

    `retold` are the same texts in kept tokens only, `kept_ids` the original's ids of those.
    """
    windows = texts if retold is None else retold
    loss, rows, lost = 0.0, [], []
    rng = np.random.default_rng(0)
    total = sum(map(len, texts)) + (0 if retold is None else sum(map(len, retold)))
    with progress.task("reading the held-out text", total, unit="tokens") as advance:
        for ids in texts:
            logits = logits_of(model, ids)
            loss += _loss(logits, np.array(ids[1:]))
            if retold is None:
                rows.append(compact(logits, _targets(ids, None), rng))
            advance(len(ids))
        for ids in [] if retold is None else windows:
            logits = logits_of(model, ids)
            restricted = np.ascontiguousarray(logits[:, kept_ids])
            lost.append(-np.expm1(log_normaliser(restricted) - log_normaliser(logits)))
            rows.append(compact(restricted, _targets(ids, kept_ids), rng))
            advance(len(ids))
    tokens = sum(len(ids) - 1 for ids in texts)
    mass = float(np.concatenate(lost).mean()) if lost else 0.0
    return Yardstick(tuple(windows), kept_ids, tuple(rows), mass, tokens, math.exp(loss / tokens))


def compare_to(original: Yardstick, model: Any, progress: Progress, label: str) -> Figures:
    """Return how far the transformers `model`, which has the kept tokens, is from the original."""
    divergence, same, loss = [], [], 0.0
    total = sum(map(len, original.windows))
    with progress.task(label, total, unit="tokens") as advance:
        for ids, rows in zip(original.windows, original.rows, strict=True):
            new_ids = _new_ids(ids, original.kept_ids)
            found = compare(rows, logits_of(model, new_ids), _targets(ids, original.kept_ids))
            divergence.append(found.divergence)
            same.append(found.same_top1)
            loss -= float(found.target_log.sum(dtype=np.float64))
            advance(len(ids))
    return Figures(
        divergence=float(np.concatenate(divergence).mean()),
        top1_agreement=float(np.concatenate(same).mean()),
        perplexity=math.exp(min(loss / original.tokens, 700.0)),
        positions=sum(map(len, divergence)),
    )


def logits_of(model: Any, ids: Ids) -> NDArray[np.float32]:
    """Return the logits of all positions but the last: float32, [length - 1, vocabulary]."""
    import torch

    with torch.inference_mode():
        output = model(torch.tensor([list(ids)]), use_cache=False).logits[0, :-1]
    logits: NDArray[np.float32] = output.numpy()
    return logits


def _new_ids(ids: Ids, kept_ids: NDArray[np.int64] | None) -> Ids:
    if kept_ids is None:
        return ids
    return [int(new) for new in np.searchsorted(kept_ids, np.array(ids))]


def _targets(ids: Ids, kept_ids: NDArray[np.int64] | None) -> NDArray[np.int32]:
    return np.array(_new_ids(ids[1:], kept_ids), dtype=np.int32)


def _loss(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the summed negative log-probability of `targets`, in nats."""
    chosen = np.take_along_axis(logits, targets[:, None], 1)
    return float((log_normaliser(logits) - chosen).sum())
