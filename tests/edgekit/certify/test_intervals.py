"""The interval holds the true mean as often as it says, also where neighbours are alike."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.workflows.certify.intervals import block_length, interval


def alike(rng: np.random.Generator, runs: int, length: int, memory: float) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Return runs of positive numbers of mean 1, each like the one before it (order 1)."""
    noise = rng.normal(0, 1, (runs, length))
    state = noise[:, 0] / np.sqrt(1 - memory**2)
    values = np.empty((runs, length))
    for place in range(length):
        values[:, place] = state
        state = memory * state + noise[:, place]
    return [row + 1.0 for row in values]


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_the_interval_covers_the_mean(memory: float) -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        low, high = interval(alike(rng, 2, 511, memory))
        hits += low <= 1.0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_single_positions_would_promise_too_much() -> None:
    rng = np.random.default_rng(4)
    runs = alike(rng, 2, 511, 0.9)
    low, high = interval(runs)
    values = np.concatenate(runs)
    naive = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low > 1.8 * naive


def test_independent_numbers_have_the_usual_interval() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, 4096)
    low, high = interval([values])
    half = 1.96 * 2.0 / 64
    assert (high - low) / 2 == pytest.approx(half, rel=0.25)
    assert low < values.mean() < high


def test_a_short_text_has_shorter_blocks_and_a_single_number_an_interval_of_itself() -> None:
    assert block_length([np.zeros(511), np.zeros(511)]) == 32
    assert block_length([np.zeros(40)]) == 5
    assert interval([np.array([0.5])]) == (0.5, 0.5)
