"""Divergence from compact rows agrees with the full computation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.divergence import TAIL_SAMPLES, TOP_TOKENS, compact, compare, join, log_normaliser


def peaked(
    rng: np.random.Generator, rows: int = 300, vocabulary: int = 6000
) -> NDArray[np.float32]:
    """Return logits whose distributions are as peaked as a language model's."""
    ranks = np.log(np.arange(1, vocabulary + 1))
    logits = np.stack([rng.permutation(-ranks * rng.uniform(1.4, 3.0)) for _ in range(rows)])
    return (logits + rng.normal(0, 0.5, logits.shape)).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def full_divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return KL(p || q) over whole vocabularies, by torch in float64."""
    import torch

    p_log = torch.log_softmax(torch.from_numpy(p).double(), -1)
    q_log = torch.log_softmax(torch.from_numpy(q).double(), -1)
    return (p_log.exp() * (p_log - q_log)).sum(-1).numpy()


def test_the_normaliser_agrees_with_torch(rng: np.random.Generator) -> None:
    import torch

    logits = peaked(rng, rows=5) * 30
    expected = torch.logsumexp(torch.from_numpy(logits).double(), -1, keepdim=True).numpy()
    np.testing.assert_allclose(log_normaliser(logits), expected, rtol=1e-7)


@pytest.mark.parametrize("noise", [0.01, 0.2, 1.0])
def test_the_compact_divergence_is_within_a_percent_of_the_full_one(
    rng: np.random.Generator, noise: float
) -> None:
    logits = peaked(rng)
    other = logits + rng.normal(0, noise, logits.shape).astype(np.float32)
    targets = rng.integers(0, logits.shape[1], len(logits)).astype(np.int32)
    found = compare(compact(logits, targets, rng), other, targets)
    expected = full_divergence(logits, other)
    assert found.divergence.mean() == pytest.approx(expected.mean(), rel=0.01)
    np.testing.assert_array_equal(found.same_top1, logits.argmax(1) == other.argmax(1))
    shifted = other - log_normaliser(other)
    np.testing.assert_allclose(
        found.target_log, shifted[np.arange(len(targets)), targets], rtol=1e-5
    )


def test_a_shift_of_the_tail_alone_is_seen(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    other = logits.copy()
    tail = np.argsort(-logits, axis=1)[:, TOP_TOKENS:]
    np.put_along_axis(other, tail, np.take_along_axis(logits, tail, 1) - 1.0, axis=1)
    targets = np.zeros(len(logits), dtype=np.int32)
    found = compare(compact(logits, targets, rng), other, targets).divergence.mean()
    assert found == pytest.approx(full_divergence(logits, other).mean(), rel=0.01)


def test_a_distribution_does_not_diverge_from_itself(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    targets = np.zeros(len(logits), dtype=np.int32)
    found = compare(compact(logits, targets, rng), logits, targets)
    assert np.abs(found.divergence).max() < 1e-6
    assert abs(found.divergence.mean()) < 1e-8


def test_a_vocabulary_smaller_than_the_top_is_exact(rng: np.random.Generator) -> None:
    logits, other = peaked(rng, vocabulary=50), peaked(rng, vocabulary=50)
    targets = np.zeros(len(logits), dtype=np.int32)
    found = compare(compact(logits, targets, rng), other, targets)
    np.testing.assert_allclose(found.divergence, full_divergence(logits, other), atol=1e-5)


def test_the_sample_holds_only_the_tail(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    rows = compact(logits, np.zeros(len(logits), dtype=np.int32), rng)
    assert rows.top_ids.shape == (len(logits), TOP_TOKENS)
    assert rows.tail_ids.shape == (len(logits), TAIL_SAMPLES)
    for top, tail in zip(rows.top_ids, rows.tail_ids, strict=True):
        assert not set(top) & set(tail)


def test_joined_parts_are_the_whole(rng: np.random.Generator) -> None:
    logits = peaked(rng)
    targets = np.zeros(len(logits), dtype=np.int32)
    whole = compact(logits, targets, rng)
    parts = join([whole.part(0, 13), whole.part(13, len(whole))])
    np.testing.assert_array_equal(parts.tail_ids, whole.tail_ids)
    np.testing.assert_array_equal(parts.top_ids[:, 0], logits.argmax(axis=1))
