"""How many threads to compute with just now, when other programs want the processor too.

llama.cpp's threads wait for each other some hundred times a token, spinning. If one of them has no
core, each wait lasts until the scheduler comes round: on two cores, one busy program beside it
made 0.4 tokens a second of 77, where a single thread had 76. So threads give way to what others
use, and come back. Linux only; elsewhere the count stays as it is. The logits are the same to the
last bit with any number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_EVERY_S = 0.25
# A thread that loses less than this share of a core is still worth having.
SPARE_CORE = 0.15
_STAT = "/proc/stat"
# proc_stat(5): user, system, irq, softirq, steal. "nice" gives way by itself; "guest" is in "user".
_BUSY_COLUMNS = (1, 3, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Load:
    """Seconds since some start: `at` by the clock, the rest of processor time.

    `own_s` is this process's, `all_s` everybody's, of `processors` that there are.
    """

    at: float
    own_s: float
    all_s: float
    processors: int


def read_load() -> Load | None:
    """Return the load of this machine so far, or None where the system does not tell."""
    try:
        with open(_STAT, encoding="ascii") as stream:
            columns = stream.readline().split()
        ticks = sum(int(columns[column]) for column in _BUSY_COLUMNS)
    except (OSError, ValueError, IndexError):
        return None
    processors = os.cpu_count() or 1
    return Load(time.monotonic(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK"), processors)


class Crew:
    """At most `most` threads, and always one. `look` reads the load; tests bring their own."""

    def __init__(self, most: int, look: Callable[[], Load | None] = read_load) -> None:
        self._most = self._now = most
        self._look = look
        self._before = look()

    def size(self) -> int:
        """Return how many threads to use for the next token. Costs nothing most of the time."""
        before = self._before
        if self._most == 1 or before is None or time.monotonic() < before.at + LOOK_EVERY_S:
            return self._now
        load = self._look()
        if load is not None:
            self._now = self._room(before, load)
        self._before = load
        return self._now

    def _room(self, before: Load, load: Load) -> int:
        """Return for how many threads the others have left a core since `before`."""
        elapsed_s = max(load.at - before.at, 1e-9)
        others = (load.all_s - before.all_s - (load.own_s - before.own_s)) / elapsed_s
        room = int(load.processors - max(others, 0.0) + SPARE_CORE)
        return max(1, min(self._most, room))
