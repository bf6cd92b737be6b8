"""Divergence from compact rows agrees with the full computation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.divergence import COVERAGE, MAX_ENTRIES, compact, compare, join, log_softmax


def peaked(rng: np.random.Generator, rows: int = 40, vocabulary: int = 6000) -> NDArray[np.float32]:
    """Return logits whose distributions are as peaked as a language model's."""
    ranks = np.log(np.arange(1, vocabulary + 1))
    logits = np.stack([rng.permutation(-ranks * rng.uniform(1.4, 3.0)) for _ in range(rows)])
    return (logits + rng.normal(0, 0.5, logits.shape)).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_log_softmax_agrees_with_torch(rng: np.random.Generator) -> None:
    import torch

    logits = peaked(rng, rows=5) * 30
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-12)


@pytest.mark.parametrize("noise", [0.03, 0.2, 1.0])
def test_compact_divergence_is_within_a_percent_of_the_full_one(
    rng: np.random.Generator, noise: float
) -> None:
    logits = peaked(rng)
    other = logits + rng.normal(0, noise, logits.shape).astype(np.float32)
    targets = rng.integers(0, logits.shape[1], len(logits)).astype(np.int32)
    p, q = log_softmax(logits), log_softmax(other)
    full = (np.exp(p) * (p - q)).sum(axis=1)
    found = compare(compact(logits, targets), other, targets)
    assert found.divergence.mean() == pytest.approx(full.mean(), rel=0.01)
    assert np.all(found.divergence <= full + 1e-9)  # the log-sum inequality
    np.testing.assert_array_equal(found.same_top1, p.argmax(1) == q.argmax(1))
    rows = np.arange(len(targets))
    np.testing.assert_allclose(found.target_log_probabilities, q[rows, targets], rtol=1e-6)


def test_a_distribution_does_not_diverge_from_itself(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    targets = np.zeros(len(logits), dtype=np.int32)
    assert compare(compact(logits, targets), logits, targets).divergence.max() < 1e-7


def test_a_row_keeps_only_what_it_needs(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    rows = compact(logits, np.zeros(len(logits), dtype=np.int32))
    for index in range(len(rows)):
        entries = slice(rows.offsets[index], rows.offsets[index + 1])
        kept = np.exp(rows.log_probabilities[entries].astype(np.float64))
        assert len(kept) <= MAX_ENTRIES
        assert kept.sum() >= COVERAGE or len(kept) == MAX_ENTRIES
        assert kept[:-1].sum() < COVERAGE
        assert np.all(np.diff(kept) <= 1e-7)


def test_joined_parts_are_the_whole(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    targets = np.zeros(len(logits), dtype=np.int32)
    whole = compact(logits, targets)
    parts = join([compact(logits[:13], targets[:13]), compact(logits[13:], targets[13:])])
    np.testing.assert_array_equal(parts.offsets, whole.offsets)
    np.testing.assert_array_equal(parts.token_ids, whole.token_ids)
    np.testing.assert_array_equal(parts.top1, logits.argmax(axis=1))
