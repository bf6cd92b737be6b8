"""How far one next-token distribution is from another, and a compact way to keep the first.

The reference of a position is its most likely tokens, and a sample of the others: enough for an
unbiased estimate of the full divergence. Nothing here knows where logits come from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

TOP_TOKENS = 128
TAIL_SAMPLES = 32
ROWS_AT_ONCE = 64
ROUNDING = 1e-6  # what float32 loses of a row's mass: a smaller tail is no tail


@dataclass(frozen=True, slots=True)
class CompactRows:
    """Next-token distributions of many positions.

    `top_ids`: int32, [positions, top], most likely first; `top_log`: float32, their
    log-probabilities. `tail_ids`, `tail_log`: the same of tokens drawn from all others, each with
    the probability that it has among them, [positions, samples]. `target_log`: float32,
    [positions], the log-probability of the token that really came next.
    """

    top_ids: NDArray[np.int32]
    top_log: NDArray[np.float32]
    tail_ids: NDArray[np.int32]
    tail_log: NDArray[np.float32]
    target_log: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.target_log)

    def part(self, first: int, end: int) -> CompactRows:
        """Return positions `first` to `end`, without copying."""
        return CompactRows(*(getattr(self, field.name)[first:end] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Position by position: divergence in nats, same top token or not, log-probability of the
    token that came next under the compared model. Each has shape [positions]."""

    divergence: NDArray[np.float64]
    same_top1: NDArray[np.bool_]
    target_log: NDArray[np.float32]


def log_normaliser(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log(sum(exp(logits))) over the last axis, kept: float64, [positions, 1]."""
    peak = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - peak).sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray(peak + np.log(total), dtype=np.float64)


def compact(
    logits: NDArray[np.float32], targets: NDArray[np.int32], rng: np.random.Generator
) -> CompactRows:
    """Return the compact form of `logits`, shape [positions, vocabulary].

    `targets`: the token that came next at each position, shape [positions]. `rng` draws the
    sample of the tail.
    """
    slabs = [
        _compact_slab(logits[first:end], targets[first:end], rng)
        for first, end in _slabs(len(logits))
    ]
    return join(slabs)


def join(parts: list[CompactRows]) -> CompactRows:
    """Return the positions of all `parts`, in order."""
    names = [field.name for field in fields(CompactRows)]
    return CompactRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def compare(
    reference: CompactRows, logits: NDArray[np.float32], targets: NDArray[np.int32]
) -> Comparison:
    """Return how `logits`, shape [positions, vocabulary], differ from `reference`.

    The divergence estimates KL(reference || logits) without bias: exact on the top tokens; on the
    others, with r = q / p, the mean of (r - 1) - log(r) over tokens drawn from p, corrected by
    the difference of the two tail masses (the control variate of Schulman 2020, "Approximating
    KL Divergence"). One position may come out slightly negative.
    """
    divergence = np.empty(len(reference))
    target_log = np.empty(len(reference), dtype=np.float32)
    for first, end in _slabs(len(reference)):
        rows = logits[first:end]
        normaliser = log_normaliser(rows)
        divergence[first:end] = _divergence(reference.part(first, end), rows, normaliser)
        target_log[first:end] = _gather(rows, normaliser, targets[first:end, None])[:, 0]
    return Comparison(
        divergence=divergence,
        same_top1=logits.argmax(axis=-1) == reference.top_ids[:, 0],
        target_log=target_log,
    )


def _divergence(
    reference: CompactRows, logits: NDArray[np.float32], normaliser: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the estimate of `compare` for one slab: [positions]."""
    p_log = reference.top_log.astype(np.float64)
    q_log = _gather(logits, normaliser, reference.top_ids)
    p, q = np.exp(p_log), np.exp(q_log)
    p_tail, q_tail = 1.0 - p.sum(axis=1), 1.0 - q.sum(axis=1)
    ratio_log = _gather(logits, normaliser, reference.tail_ids) - reference.tail_log
    surprise = np.expm1(ratio_log) - ratio_log
    inside = (p * (p_log - q_log)).sum(axis=1)
    outside = p_tail - q_tail + p_tail * surprise.mean(axis=1)
    return np.asarray(np.where(p_tail < ROUNDING, inside, inside + outside), dtype=np.float64)


def _compact_slab(
    logits: NDArray[np.float32], targets: NDArray[np.int32], rng: np.random.Generator
) -> CompactRows:
    normaliser = log_normaliser(logits)
    top_ids = _top(logits, min(TOP_TOKENS, logits.shape[1]))
    tail_ids = _sample_tail(logits, top_ids, rng)
    return CompactRows(
        top_ids=top_ids,
        top_log=_gather(logits, normaliser, top_ids).astype(np.float32),
        tail_ids=tail_ids,
        tail_log=_gather(logits, normaliser, tail_ids).astype(np.float32),
        target_log=_gather(logits, normaliser, targets[:, None])[:, 0].astype(np.float32),
    )


def _top(logits: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """Return the ids of the `count` largest logits of each row, the largest first."""
    ids = np.argpartition(logits, logits.shape[1] - count, axis=1)[:, -count:]
    order = np.argsort(-np.take_along_axis(logits, ids, 1), axis=1, kind="stable")
    ordered: NDArray[np.int32] = np.take_along_axis(ids, order, 1).astype(np.int32)
    return ordered


def _sample_tail(
    logits: NDArray[np.float32], top_ids: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Draw tokens outside `top_ids`, stratified, with probabilities proportional to exp(logit)."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    np.put_along_axis(weights, top_ids, 0.0, axis=1)
    sums = np.cumsum(weights, axis=1)
    strata = (np.arange(TAIL_SAMPLES) + rng.random((len(logits), TAIL_SAMPLES))) / TAIL_SAMPLES
    drawn = [
        np.searchsorted(row, s * row[-1], "right") for row, s in zip(sums, strata, strict=True)
    ]
    # A row without a tail has weight 0 everywhere: any token will do, its mass counts nothing.
    ids: NDArray[np.int32] = np.minimum(drawn, logits.shape[1] - 1).astype(np.int32)
    return ids


def _gather(
    logits: NDArray[np.float32], normaliser: NDArray[np.float64], ids: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return the log-probabilities of `ids`, [positions, n], under `logits`."""
    found: NDArray[np.float64] = np.take_along_axis(logits, ids.astype(np.intp), 1) - normaliser
    return found


def _slabs(count: int) -> list[tuple[int, int]]:
    return [(first, min(first + ROWS_AT_ONCE, count)) for first in range(0, count, ROWS_AT_ONCE)]
