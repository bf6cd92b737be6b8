"""How sure a mean over text positions is: neighbours are alike, so single positions say too much.

It knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
FEWEST_BLOCKS = 8
RESAMPLES = 2000
COVERAGE = 0.95


def block_length(runs: Sequence[NDArray[np.float64]]) -> int:
    """Return how many positions a block has: 32, fewer where that would leave under 8 blocks."""
    total = sum(len(run) for run in runs)
    return max(1, min(BLOCK, total // FEWEST_BLOCKS))


def interval(runs: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over all positions of `runs`, [positions] each.

    A block bootstrap: blocks of consecutive positions of one run are drawn with replacement, and
    the interval holds the middle 95 % of the means (Kuensch 1989, "The jackknife and the bootstrap
    for general stationary observations", Annals of Statistics 17; here the blocks do not
    overlap, as in Carlstein 1986, Annals of Statistics 14).
    """
    length = block_length(runs)
    blocks = [run[i : i + length] for run in runs for i in range(0, len(run), length)]
    sums = np.array([block.sum() for block in blocks])
    counts = np.array([len(block) for block in blocks])
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(blocks), (RESAMPLES, len(blocks)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
