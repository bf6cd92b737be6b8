"""What pruning cost: divergence and perplexity on text held out from every choice.

Where the vocabulary is pruned, both models read the text in the new tokens, and the original's
distribution is restricted to them; perplexity is always per token of the original's tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.divergence import CompactRows, compact, compare, log_normaliser
from converters.pruning.running import Ids
from edgekit.errors import InputError
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


def yardstick(model: Any, texts: Sequence[Ids], progress: Progress) -> Yardstick:
    """Measure the original transformers `model` on `texts`, each from an empty context.

    Raises InputError if it gives numbers that are not finite.
    """
    loss, rows = 0.0, []
    rng = np.random.default_rng(0)
    with progress.task("reading the held-out text", _tokens(texts), unit="tokens") as advance:
        for ids in texts:
            found = compact(logits_of(model, ids), _targets(ids, None), rng)
            loss -= float(found.target_log.sum(dtype=np.float64))
            rows.append(found)
            advance(len(ids))
    tokens = _tokens(texts) - len(texts)
    return Yardstick(tuple(texts), None, tuple(rows), 0.0, tokens, _perplexity(loss, tokens))


def restricted(
    plain: Yardstick,
    model: Any,
    retold: Sequence[Ids],
    kept_ids: NDArray[np.int64],
    progress: Progress,
) -> Yardstick:
    """Return the yardstick for a model that has the tokens `kept_ids` only.

    `retold` are the texts of `plain` written with those. The original `model` is restricted to
    them; its perplexity stays that of the whole vocabulary.
    """
    rows, lost = [], []
    rng = np.random.default_rng(0)
    label = "reading it in the kept tokens"
    with progress.task(label, _tokens(retold), unit="tokens") as advance:
        for ids in retold:
            logits = logits_of(model, ids)
            kept = np.ascontiguousarray(logits[:, kept_ids])
            lost.append(-np.expm1(log_normaliser(kept) - log_normaliser(logits)))
            rows.append(compact(kept, _targets(ids, kept_ids), rng))
            advance(len(ids))
    mass = float(np.concatenate(lost).mean())
    return replace(
        plain, windows=tuple(retold), kept_ids=kept_ids, rows=tuple(rows), lost_mass=mass
    )


def compare_to(original: Yardstick, model: Any, progress: Progress, label: str) -> Figures:
    """Return how far the transformers `model`, which has the kept tokens, is from the original.

    Raises InputError if it gives numbers that are not finite.
    """
    divergence, same, loss = [], [], 0.0
    with progress.task(label, _tokens(original.windows), unit="tokens") as advance:
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
        perplexity=_perplexity(loss, original.tokens),
        positions=sum(map(len, divergence)),
    )


def logits_of(model: Any, ids: Ids) -> NDArray[np.float32]:
    """Return the logits of all positions but the last: float32, [length - 1, vocabulary]."""
    import torch

    with torch.inference_mode():
        output = model(torch.tensor([list(ids)]), use_cache=False).logits[0, :-1]
    logits: NDArray[np.float32] = output.numpy()
    if not np.isfinite(logits).all():
        raise InputError(
            "the model gives logits that are not finite", hint="are its weights damaged?"
        )
    return logits


def _perplexity(loss: float, tokens: int) -> float:
    return math.exp(min(loss / tokens, 700.0))  # beyond, a float64 overflows


def _new_ids(ids: Ids, kept_ids: NDArray[np.int64] | None) -> Ids:
    if kept_ids is None:
        return ids
    return [int(new) for new in np.searchsorted(kept_ids, np.array(ids))]


def _targets(ids: Ids, kept_ids: NDArray[np.int64] | None) -> NDArray[np.int32]:
    return np.array(_new_ids(ids[1:], kept_ids), dtype=np.int32)


def _tokens(texts: Sequence[Ids]) -> int:
    return sum(map(len, texts))
