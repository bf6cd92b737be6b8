"""How fast a run is: tokens a second, share of the hardware's peak, memory. It only measures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.train.arithmetic import Peak, Work, peak_of, work_of
from edgekit.train.hardware import Hardware
from edgekit.train.team import Team

RECENT_STEPS = 20
SHORTEST_S = 1e-9


@dataclass(frozen=True, slots=True)
class Speed:
    """`tokens_per_s` of all processes together; `mfu`, 0 to 1, is the model FLOPs utilisation,
    None where the model's arithmetic is not known."""

    tokens_per_s: float
    mfu: float | None


class Meter:
    """Measures the steps of one run. Without `work` and `peak` it tells no utilisation."""

    def __init__(
        self, work: Work | None = None, peak: Peak | None = None, processes: int = 1,
        on_cuda: bool = False,
    ) -> None:  # fmt: skip
        self.peak = peak
        self._work, self._processes, self._on_cuda = work, processes, on_cuda
        self._recent: deque[tuple[int, int, float]] = deque(maxlen=RECENT_STEPS)

    @classmethod
    def of(cls, model: Any, hardware: Hardware, team: Team) -> Meter:
        """Return the meter for the training of `model`, as it stands, frozen or not."""
        return cls(work_of(model), peak_of(hardware), team.size, hardware.device == "cuda")

    def step(self, lengths: Sequence[int], seconds: float) -> Speed:
        """Take note of a step over examples of these `lengths`, and return how fast it was."""
        flops = 0 if self._work is None else self._work.flops(lengths)
        self._recent.append((sum(lengths), flops, max(seconds, SHORTEST_S)))
        return self._speed([self._recent[-1]])

    @property
    def recent(self) -> Speed:
        """Return how fast the last steps were, taken together."""
        return self._speed(self._recent)

    def _speed(self, steps: Sequence[tuple[int, int, float]] | deque[Any]) -> Speed:
        tokens, flops, seconds = (sum(column) for column in zip(*steps, strict=True))
        if self.peak is None or not flops:
            return Speed(tokens / seconds, None)
        return Speed(tokens / seconds, flops / seconds / (self.peak.flops * self._processes))

    def memory_bytes(self) -> int:
        """Return the most that was in use on the GPU of this process, or its resident memory."""
        if self._on_cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return resident_bytes()


def resident_bytes() -> int:
    """Return this process's resident memory: now, or its peak where the system tells no more."""
    with suppress(OSError):  # Linux alone has the file
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
