"""Allocation against every possible choice, tried one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from converters.budget.allocate import Options, allocate, front

MATRICES, TYPES = 6, 4


def options(seed: int) -> Options:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, MATRICES)[:, None] * 1000.0
    bits = np.array([4.5, 5.5, 6.5, 8.5])
    losses = rng.random((MATRICES, 1)) * 4.0 ** -np.arange(TYPES) * rng.uniform(0.8, 1.2, (6, 4))
    losses[0, 1] = np.inf  # a type that this shape forbids
    seconds = weights * np.array([1.0, 1.8, 1.5, 2.0])
    return Options(losses, weights * bits / 8, seconds)


def best_of_all(found: Options, size: float, seconds: float) -> float:
    choices = (np.array(c) for c in product(range(TYPES), repeat=MATRICES))
    held = [c for c in choices if found.size(c) <= size and found.time(c) <= seconds]
    return min((found.loss(c) for c in held), default=np.inf)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.1, 0.35, 0.7, 1.0])
@pytest.mark.parametrize("slack", [0.4, np.inf])
def test_the_best_within_both_limits(seed: int, share: float, slack: float) -> None:
    found = options(seed)
    low, high = found.sizes.min(1).sum(), found.sizes.max(1).sum()
    size = low + share * (high - low)
    least = found.seconds.min(1).sum()
    seconds = least + slack * (found.seconds.max(1).sum() - least)
    choice = allocate(found, size, seconds)
    best = best_of_all(found, size, seconds)
    if choice is None:
        assert best == np.inf
        return
    assert found.size(choice) <= size
    assert found.time(choice) <= seconds
    assert best <= found.loss(choice) <= 2.5 * best  # a handful of matrices leaves odd gaps


def test_many_matrices_leave_no_gap() -> None:
    rng = np.random.default_rng(1)
    losses = rng.random((200, 1)) * np.array([[1.0, 0.3, 0.02]])
    sizes = np.full((200, 1), 1000.0) * np.array([[4.5, 5.5, 8.5]])
    found = Options(losses, sizes, sizes)
    for limit in np.linspace(sizes[:, 0].sum(), sizes[:, 2].sum(), 7):
        choice = allocate(found, limit)
        assert choice is not None
        # The continuous relaxation is a bound from below: mix two neighbours for the last matrix.
        assert found.loss(choice) <= _relaxed(found, limit) + 0.7  # at most one step of one matrix


def _relaxed(found: Options, limit: float) -> float:
    prices = np.geomspace(1e-9, 1e-1, 400)
    bounds = [
        (found.losses + p * found.sizes).min(axis=1).sum() - p * limit for p in (0.0, *prices)
    ]
    return float(max(bounds))


def test_nothing_fits() -> None:
    found = options(0)
    assert allocate(found, 10.0) is None
    assert allocate(found, 1e12, 1.0) is None


def test_the_front_goes_from_the_smallest_to_the_best() -> None:
    found = options(3)
    choices = front(found, 12)
    sizes, losses = [found.size(c) for c in choices], [found.loss(c) for c in choices]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(found.losses.min(axis=1).sum())
    assert len(choices) > 4
    assert all(np.isfinite(losses))
