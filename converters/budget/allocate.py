"""Allocation: one type for each matrix, so that least is lost within bytes and seconds.

Costs add up over matrices, and so, nearly, do losses: the choice is a multiple-choice knapsack,
solved by Lagrange multipliers (Everett 1963). Each pair of prices, of a byte and of a second,
gives a choice that is the best of its size and time. It knows numbers only: no tensor, no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choice = NDArray[np.intp]

PRICES = (1e-18, 1e6)  # of a byte, in units of loss: from nothing to any
PRICE_STEPS = 60  # halvings of its logarithm: exact to the last matrix
SECOND_PRICES = 25


@dataclass(frozen=True, slots=True)
class Options:
    """What each matrix can become: `losses`, `sizes` (bytes) and `seconds` (for one token), each
    float64 [matrices, types]. A type that is not possible has an infinite loss."""

    losses: Floats
    sizes: Floats
    seconds: Floats

    def loss(self, choice: Choice) -> float:
        """Return the sum of losses of one type a matrix, [matrices]."""
        return _sum(self.losses, choice)

    def size(self, choice: Choice) -> float:
        """Return the bytes of a choice."""
        return _sum(self.sizes, choice)

    def time(self, choice: Choice) -> float:
        """Return the seconds of a choice."""
        return _sum(self.seconds, choice)


def allocate(options: Options, max_size: float, max_seconds: float = float("inf")) -> Choice | None:
    """Return the choice of least loss that holds both limits; None if there is none.

    Nearly the least: what fits beside the Lagrangian solution is filled in greedily, so that the
    rest is smaller than the cheapest improvement.
    """
    found: list[Choice] = []
    for price in _second_prices(options, max_seconds):
        choice = _largest_within(options, price, max_size, max_seconds)
        if choice is not None:
            found.append(_fill(options, choice, max_size, max_seconds))
    return min(found, key=options.loss, default=None)


def front(options: Options, points: int, max_seconds: float = float("inf")) -> list[Choice]:
    """Return the best choices for `points` sizes from the smallest possible to the largest useful.

    Sizes are evenly spread by their logarithm; equal choices appear once.
    """
    possible = np.where(np.isfinite(options.losses), options.sizes, np.inf)
    low, high = (options.size(np.argmin(v, axis=1)) for v in (possible, options.losses))
    found: dict[bytes, Choice] = {}
    for limit in np.geomspace(low, high, points):
        choice = allocate(options, float(limit) + 0.5, max_seconds)
        if choice is not None:
            found[choice.tobytes()] = choice
    return sorted(found.values(), key=options.size)


def _sum(values: Floats, choice: Choice) -> float:
    return float(values[np.arange(len(choice)), choice].sum())


def _second_prices(options: Options, max_seconds: float) -> Floats:
    """Return what a second may cost: nothing, or anything that could decide a matrix."""
    if not np.isfinite(max_seconds):
        return np.zeros(1)
    finite = options.losses[np.isfinite(options.losses)]
    scale = max(float(finite.max()), 1e-12) / max(float(options.seconds.max()), 1e-12)
    return np.concatenate([[0.0], np.geomspace(1e-6, 1e2, SECOND_PRICES) * scale])


def _largest_within(
    options: Options, second_price: float, max_size: float, max_seconds: float
) -> Choice | None:
    """Return the choice at the lowest price of a byte that holds the limits, by bisection."""
    priced = options.losses + second_price * options.seconds

    def at(price: float) -> Choice:
        choice: Choice = np.argmin(priced + price * options.sizes, axis=1)
        return choice

    def holds(choice: Choice) -> bool:
        return options.size(choice) <= max_size and options.time(choice) <= max_seconds

    low, high = PRICES
    if holds(at(low)):
        return at(low)
    if not holds(at(high)):
        return None
    for _ in range(PRICE_STEPS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if holds(at(middle)) else (middle, high)
    return at(high)


def _fill(options: Options, choice: Choice, max_size: float, max_seconds: float) -> Choice:
    """Raise single matrices, the best gain for a byte first, while anything fits."""
    choice = choice.copy()
    rows = np.arange(len(choice))
    while True:
        room = max_size - options.size(choice)
        slack = max_seconds - options.time(choice)
        gain = options.losses[rows, choice][:, None] - options.losses
        bytes_more = options.sizes - options.sizes[rows, choice][:, None]
        seconds_more = options.seconds - options.seconds[rows, choice][:, None]
        possible = (gain > 0) & (bytes_more <= room) & (seconds_more <= slack)
        if not possible.any():
            return choice
        worth = np.where(possible, gain / np.maximum(bytes_more, 1.0), -np.inf)
        row, column = np.unravel_index(int(worth.argmax()), worth.shape)
        choice[row] = column
