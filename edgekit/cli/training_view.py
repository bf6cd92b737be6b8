"""The trainer's panel: three lines under the bar of the stretch that is going on.

It is drawn on a terminal alone; elsewhere each stretch leaves its one plain line, as ever. No
colour carries meaning, and 80 columns are enough.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import styled
from edgekit.cli.progress import Bars
from edgekit.units import format_bytes

if TYPE_CHECKING:
    from edgekit.train.standing import Standing

REDRAW_S = 0.2
LEVELS = " .:-=+*#"  # of the sketch of the loss, low to high: any terminal has them
SKETCH_COLUMNS = 24


class TrainingView(Bars):
    """Bars, and under that of the training how the run stands."""

    def __init__(self) -> None:
        super().__init__()
        self._panel_drawn = 0.0
        self._can_draw = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def tell(self, standing: Standing) -> None:
        """Draw the panel anew, at most a few times a second."""
        if not self._can_draw or time.monotonic() - self._panel_drawn < REDRAW_S:
            return
        self._panel_drawn = time.monotonic()
        columns = shutil.get_terminal_size().columns
        lines = [f"\x1b[K{line}" for line in panel(standing, columns)]
        # Below the bar's line, and back up to it: the bar is drawn and wiped as without a panel.
        click.echo("\n" + "\n".join(lines) + f"\x1b[{len(lines)}A\r", nl=False, err=True)


def panel(standing: Standing, columns: int) -> list[str]:
    """Return the lines of the panel, each of fewer than `columns` characters on the screen."""
    of = "" if standing.steps is None else f" of {standing.steps}"
    speed = standing.speed
    share = [] if speed.mfu is None else [f"MFU {speed.mfu:.1%} of {standing.peak}"]
    rows = [
        [f"step {standing.step}{of}", f"{standing.done:.0%}", f"{duration(standing.left_s)} left"],
        [
            f"loss {standing.loss:.4f} {sketch(standing.curve)}",
            f"{standing.figure_name} {standing.held_out:.4f}",
            f"rate {standing.learning_rate:.1e}",
        ],
        [
            f"{speed.tokens_per_s:.0f} tokens/s", *share,
            f"memory {format_bytes(standing.memory_bytes)}",
        ],
    ]  # fmt: skip
    return [styled(f"  {'  |  '.join(row)}"[: columns - 1], dim=True) for row in rows]


def sketch(curve: Sequence[dict[str, float]]) -> str:
    """Return the losses of a curve as a line of characters, from the first step to the last.

    Each stands for the mean of as many steps; the highest and the lowest mean set the scale.
    """
    losses = [entry["loss"] for entry in curve if "loss" in entry]
    count = min(SKETCH_COLUMNS, len(losses))
    cuts = [len(losses) * i // count for i in range(count + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    step = (high - low) / (len(LEVELS) - 1) or 1.0
    return "[" + "".join(LEVELS[round((mean - low) / step)] for mean in means) + "]"


def duration(seconds: float) -> str:
    """Return a length of time as people say it: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
