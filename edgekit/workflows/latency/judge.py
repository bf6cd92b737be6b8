"""The rules: when a budget holds, and when a ratio shows that an engine does its work well.

Only numbers come in and only verdicts go out, so every rule can be tried with made-up figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a figure stands to its budget, from the best to the worst."""

    HOLDS = "holds"
    UNSURE = "unsure"
    MISSED = "missed"
    IMPOSSIBLE = "impossible"


_ORDER = list(Verdict)

PREDICTED = "predicted"
MEASURED_HERE = "measured here"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with the share of it by which it may be wrong: 0.3 is "30 % more or less".

    `source` is the column it belongs to: "measured here", "measured under limits" or
    "predicted". They are never mixed.
    """

    value: float
    doubt: float
    source: str

    @property
    def low(self) -> float:
        """Return the least that the true number may be."""
        return self.value * (1 - self.doubt)

    @property
    def high(self) -> float:
        """Return the most that the true number may be."""
        return self.value * (1 + self.doubt)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two figures of one run, and the band in which it shows nothing wrong."""

    name: str
    value: float
    low: float
    high: float
    meaning: str

    @property
    def holds(self) -> bool:
        """Tell whether the value is in its band."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        """Return the sentence for a report or a failed test."""
        said = "is" if self.holds else "is not"
        band = f"{self.low:.2f} to {self.high:.2f}"
        return f"{self.name} {self.value:.3f} {said} in {band}: {self.meaning}"


def at_most(figure: Figure, budget: float) -> Verdict:
    """Judge a figure that should be at most `budget`. A budget of 0 asks for nothing."""
    if budget <= 0 or figure.high <= budget:
        return Verdict.HOLDS
    return Verdict.MISSED if figure.low > budget else Verdict.UNSURE


def at_least(figure: Figure, budget: float) -> Verdict:
    """Judge a figure that should be at least `budget`. A budget of 0 asks for nothing."""
    if budget <= 0 or figure.low >= budget:
        return Verdict.HOLDS
    return Verdict.MISSED if figure.high < budget else Verdict.UNSURE


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of some verdicts; HOLDS if there are none."""
    return max(verdicts, key=_ORDER.index, default=Verdict.HOLDS)


def roofline_share(token_bytes: float, cpu_s_per_token: float, bandwidth: float) -> Ratio:
    """Judge decode against the read bandwidth of the same processor in the same run.

    `token_bytes` by the manifest, `bandwidth` in bytes per second of processor time. A good
    kernel on a small model reaches 0.3 to 0.7; scalar code reaches 0.05.
    """
    value = token_bytes / cpu_s_per_token / bandwidth
    return Ratio("roofline share", value, 0.15, 1.2, "decode speed over read bandwidth")


def bytes_touched(touched_bytes: float, token_bytes: float) -> Ratio:
    """Judge the memory that one token touches against what the manifest says.

    Repacked weights take up to 1.4; weights widened to 16 bits would take 2 and more.
    """
    value = touched_bytes / token_bytes
    return Ratio("bytes touched", value, 0.9, 1.6, "memory that a token touches over the manifest")


def peak_against_plan(peak_bytes: float, planned: Figure, *, at_most: bool = False) -> Ratio:
    """Judge peak memory against the plan, within the plan's own uncertainty.

    Under a limit only `at_most` can be asked: the system takes back there what it can.
    """
    low = 0.0 if at_most else 1 - planned.doubt
    value, high = peak_bytes / planned.value, 1 + planned.doubt
    return Ratio("peak against plan", value, low, high, "peak memory over the plan")


def same_work(limited_cpu_s: float, free_cpu_s: float) -> Ratio:
    """Judge processor time per token under limits against that without.

    Caches that others empty while a process waits for its share cost up to 1.7 on a busy machine;
    weights that are read from the disk again for every token cost 10 and more.
    """
    value = limited_cpu_s / free_cpu_s
    return Ratio("same work", value, 0.5, 2.5, "processor time a token under limits over without")


def within_share(processor_share: float, share: float) -> Ratio:
    """Judge whether the limit on processor time was in force: other programs only lower it."""
    value = processor_share / share
    return Ratio("limit kept", value, 0.0, 1.2, "processor time taken over processor time allowed")
