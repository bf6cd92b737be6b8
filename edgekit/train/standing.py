"""How a run stands after a step: what a watcher may want to show. It draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.train.meter import Speed


@dataclass(frozen=True, slots=True)
class Standing:
    """`step` of `steps`, None where the clock ends the run; `done` is the share of the budget,
    0 to 1; `left_s`, seconds, follows from it. `held_out` is the last of the figure that judges.
    `speed` is that of the last steps. `curve` is the whole of it: see `edgekit.train.loop.Run`.
    """

    name: str
    step: int
    steps: int | None
    done: float
    left_s: float
    loss: float
    figure_name: str
    held_out: float
    learning_rate: float
    speed: Speed
    peak: str
    memory_bytes: int
    curve: Sequence[dict[str, float]]

    def __str__(self) -> str:
        """Return the shortest of it."""
        return f"{self.name}: loss {self.loss:.4f}, {self.speed.tokens_per_s:.0f} tok/s"
