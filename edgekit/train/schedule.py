"""How far a training run is, and how fast it learns there. It knows no models."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP = 0.05
FIRST_SHARE = 0.1  # of the peak, at the first step


@dataclass(frozen=True, slots=True)
class Budget:
    """When a run ends: after `steps`, after `minutes` of training, or at what comes first."""

    steps: int | None = None
    minutes: float | None = None

    def done(self, step: int, elapsed_s: float) -> float:
        """Return the share of the budget, 0 to 1, that `step` steps in `elapsed_s` used up."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.minutes is not None:
            shares.append(elapsed_s / (60 * self.minutes))
        return min(1.0, max(shares))


def learning_rate(peak: float, done: float) -> float:
    """Return the learning rate where the share `done` of the budget is used up.

    A linear warm-up, then half a cosine down to zero (Loshchilov and Hutter 2016, "SGDR",
    arXiv 1608.03983, without restarts). It follows the budget, so that a run that ends by the
    clock has decayed as well.
    """
    warm = min(1.0, FIRST_SHARE + (1 - FIRST_SHARE) * done / WARM_UP)
    return peak * warm * (1 + math.cos(math.pi * done)) / 2
