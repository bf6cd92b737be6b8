"""Finding the fastest variant and number of threads for one engine, by a few short trials.

ggml's favourite and one thread per physical core stay unless something else is clearly faster:
on a machine that others use too, small differences are chance. Trials go round in turns, so that a
busy moment meets all candidates.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtimes import trial
from runtimes.trial import IllegalInstruction, Trial

# What a candidate must gain over the default before it takes its place.
LEAST_GAIN = 0.05
ROUNDS = 3
# ggml scores by features: the fastest is among the first few.
MOST_VARIANTS = 3
_CAPACITY = "/sys/devices/system/cpu/cpu{}/cpu_capacity"

Candidate = tuple[str, int]
"""A variant's name (empty: the library has one built in) and a number of threads."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What to use, and why: `measured` has a row per candidate, its median turn in seconds.

    `variants` are those that run here, ggml's favourite first; `broken` those that should and
    ended in an illegal instruction.
    """

    variant: str
    variants: tuple[str, ...]
    broken: tuple[str, ...]
    threads: int
    measured: list[dict[str, Any]] = field(default_factory=list)


def tune(format_: str, artifact: Path | None, seconds: float) -> Tuned:
    """Try `format_`'s engine with `artifact` for about `seconds` and return what is best.

    Without an artifact the engine is only loaded. Raises EngineFailure if it does not work.
    """
    from devices.detect import physical_cores

    cores = physical_cores()
    bench = _Bench(format_, artifact, time.monotonic() + seconds)
    variants = trial.variants() if format_ == "gguf" else []
    favourite = bench.first_that_runs(variants or [""], cores)
    variant = bench.best([(name, cores) for name in _rivals(variants, favourite)])[0]
    _, threads = bench.best([(variant, count) for count in thread_counts(cores)])
    return Tuned(variant, tuple(variants), tuple(bench.broken), threads, bench.rows())


def thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads worth trying, the default, `cores`, first.

    All hardware threads; only the fast cores of a chip with two kinds; one core left for others,
    since threads wait for the slowest of them.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    fast = _fast_cores(usable)
    counts = [cores, len(usable), fast, cores - 1 if cores > 2 else cores]
    return list(dict.fromkeys(count for count in counts if count >= 1))


def _fast_cores(usable: Sequence[int]) -> int:
    """Return how many of the processors `usable` are of the fastest kind, 0 if unknown."""
    capacities = []
    for cpu in usable:
        try:
            capacities.append(int(Path(_CAPACITY.format(cpu)).read_text()))
        except (OSError, ValueError):
            return 0
    return capacities.count(max(capacities, default=0))


def _rivals(variants: Sequence[str], favourite: str) -> list[str]:
    """Return the favourite and the next few below it."""
    if favourite not in variants:
        return [favourite]
    first = variants.index(favourite)
    return list(variants[first : first + MOST_VARIANTS])


class _Bench:
    """The trials of one engine, until the time is up."""

    def __init__(self, format_: str, artifact: Path | None, deadline: float) -> None:
        self._format = format_
        self._artifact = artifact
        self._deadline = deadline
        self._rows: dict[Candidate, list[trial.Timing]] = {}
        self.broken: list[str] = []

    def first_that_runs(self, variants: Sequence[str], threads: int) -> str:
        """Return the first of `variants` that survives a trial; the others are struck off."""
        failure: IllegalInstruction | None = None
        for name in variants:
            try:
                self._try((name, threads))
            except IllegalInstruction as error:
                self.broken.append(name)
                failure = error
            else:
                return name
        if failure is None:
            raise ValueError("there is no variant to try")
        raise failure

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the first of `candidates`, or another one that is clearly faster."""
        if self._artifact is None or len(candidates) < 2:
            return candidates[0]
        for _ in range(ROUNDS):
            for candidate in candidates:
                if time.monotonic() < self._deadline:
                    self._try_quietly(candidate)
        return choose({c: self._rows.get(c, []) for c in candidates})

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per candidate that was measured, for the report."""
        if self._artifact is None:
            return []
        return [_row(candidate, timings) for candidate, timings in self._rows.items()]

    def _try_quietly(self, candidate: Candidate) -> None:
        try:
            self._try(candidate)
        except IllegalInstruction:
            self.broken.append(candidate[0])

    def _try(self, candidate: Candidate) -> None:
        name, threads = candidate
        if name in self.broken:
            return
        timing = trial.run(Trial(self._format, self._artifact, name or None, threads))
        self._rows.setdefault(candidate, []).append(timing)


def choose(timings: dict[Candidate, list[trial.Timing]]) -> Candidate:
    """Return the first candidate, or the fastest if it gains more than LEAST_GAIN over it.

    Compares the medians of what was measured; a candidate without a measurement cannot win.
    """
    turns = {c: statistics.median(t.turn_s for t in ts) for c, ts in timings.items() if ts}
    default = next(iter(timings))
    if default not in turns:
        return default
    fastest = min(turns, key=lambda candidate: turns[candidate])
    gain = turns[default] / turns[fastest] - 1
    return fastest if gain > LEAST_GAIN else default


def _row(candidate: Candidate, timings: Sequence[trial.Timing]) -> dict[str, Any]:
    return {
        "variant": candidate[0],
        "threads": candidate[1],
        "trials": len(timings),
        "prefill_tokens_per_s": round(1 / statistics.median(t.prefill_s for t in timings), 2),
        "decode_tokens_per_s": round(1 / statistics.median(t.decode_s for t in timings), 2),
    }
