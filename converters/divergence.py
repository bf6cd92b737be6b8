"""How far one next-token distribution is from another, and a compact way to keep the first.

The reference of a position is its most likely tokens with their log-probabilities, and the
probability of all others together. Nothing here knows where logits come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.9995
MAX_ENTRIES = 2048
ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class CompactRows:
    """Next-token distributions of many positions, kept as top entries and tail mass.

    `offsets`: int64, [positions + 1]; the entries of position i are `offsets[i]:offsets[i + 1]`.
    `token_ids`: int32, [entries], most likely first. `log_probabilities`: float32, [entries].
    `target_log_probabilities`: float32, [positions], of the token that really came next.
    """

    offsets: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    log_probabilities: NDArray[np.float32]
    target_log_probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def top1(self) -> NDArray[np.int32]:
        """Return the most likely token of each position: int32, [positions]."""
        return self.token_ids[self.offsets[:-1]]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis: float64, same shape as `logits`."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def compact(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> CompactRows:
    """Return the compact form of `logits`, shape [positions, vocabulary].

    Keeps for each position the fewest tokens that hold `COVERAGE` of the probability, at most
    `MAX_ENTRIES`. `targets`: the token that came next at each position, shape [positions].
    """
    ids: list[NDArray[np.int32]] = []
    values: list[NDArray[np.float32]] = []
    for row in logits:
        log_probabilities = log_softmax(row)
        count = min(MAX_ENTRIES, len(row))
        top = np.argpartition(row, len(row) - count)[-count:]
        top = top[np.argsort(-row[top], kind="stable")]
        covered = np.cumsum(np.exp(log_probabilities[top]))
        kept = top[: int(np.searchsorted(covered, COVERAGE)) + 1]
        ids.append(kept.astype(np.int32))
        values.append(log_probabilities[kept].astype(np.float32))
    lengths = [len(row_ids) for row_ids in ids]
    return CompactRows(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        token_ids=np.concatenate(ids),
        log_probabilities=np.concatenate(values),
        target_log_probabilities=_at_targets(logits, targets),
    )


def join(parts: list[CompactRows]) -> CompactRows:
    """Return the positions of all `parts`, in order."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return CompactRows(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        token_ids=np.concatenate([part.token_ids for part in parts]),
        log_probabilities=np.concatenate([part.log_probabilities for part in parts]),
        target_log_probabilities=np.concatenate([p.target_log_probabilities for p in parts]),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Position by position: divergence in nats, same top token or not, log-probability of the
    token that came next under the compared model. Each has shape [positions]."""

    divergence: NDArray[np.float64]
    same_top1: NDArray[np.bool_]
    target_log_probabilities: NDArray[np.float32]


def compare(
    reference: CompactRows, logits: NDArray[np.float32], targets: NDArray[np.int32]
) -> Comparison:
    """Return how `logits`, shape [positions, vocabulary], differ from `reference`.

    The divergence is KL(reference || logits) with all tokens outside the reference's entries
    counted as one. By the log-sum inequality that is never more than the full divergence, and
    with `COVERAGE` of the mass kept it is within a percent of it.
    """
    divergence = np.empty(len(reference))
    for first in range(0, len(reference), ROWS_AT_ONCE):
        rows = log_softmax(logits[first : first + ROWS_AT_ONCE])
        for index, row in enumerate(rows, start=first):
            entries = slice(reference.offsets[index], reference.offsets[index + 1])
            divergence[index] = _row_divergence(
                reference.log_probabilities[entries].astype(np.float64),
                row[reference.token_ids[entries]],
            )
    return Comparison(
        divergence=divergence,
        same_top1=logits.argmax(axis=-1) == reference.top1,
        target_log_probabilities=_at_targets(logits, targets),
    )


def _row_divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the divergence of one position from the log-probabilities of the kept tokens."""
    probabilities = np.exp(reference)
    inside = float(np.dot(probabilities, reference - other))
    tail, other_tail = 1.0 - probabilities.sum(), 1.0 - np.exp(other).sum()
    # float32 storage leaves about 1e-7 of a full row; a smaller tail is rounding, not mass.
    if tail < 1e-6 or other_tail <= 0.0:
        return max(0.0, inside)
    return max(0.0, inside + float(tail * np.log(tail / other_tail)))


def _at_targets(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float32]:
    found = np.empty(len(targets), dtype=np.float32)
    for first in range(0, len(targets), ROWS_AT_ONCE):
        rows = log_softmax(logits[first : first + ROWS_AT_ONCE])
        wanted = targets[first : first + ROWS_AT_ONCE]
        found[first : first + ROWS_AT_ONCE] = rows[np.arange(len(rows)), wanted]
    return found
