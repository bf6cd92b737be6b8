"""What each value of `Sampling` may be, as a rule and in words: for engines and for forms.

Knows no engine, and loads nothing: numpy would cost a form 135 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Number = int | float


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers that `holds` lets through; `words` say which these are."""

    words: str
    holds: Callable[[Number], bool]

    def allows(self, value: Number) -> bool:
        """Return whether `value` is a finite number in the range."""
        return math.isfinite(value) and self.holds(value)


RANGES = {
    "max_tokens": Range("at least 1", lambda value: value >= 1),
    "temperature": Range("0 (greedy) or more", lambda value: value >= 0),
    "top_k": Range("0 (off) or more", lambda value: value >= 0),
    "top_p": Range("above 0 and at most 1 (off)", lambda value: 0 < value <= 1),
    "min_p": Range("between 0 (off) and 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": Range("above 0; 1 is off", lambda value: value > 0),
    "repetition_window": Range("0 or more", lambda value: value >= 0),
    "seed": Range("0 or more", lambda value: value >= 0),
}
"""By the names of `Sampling`'s fields. A seed may also be None."""
