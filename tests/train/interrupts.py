"""An interruption, once so many steps were made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """A watcher that calls a function once so many steps were made."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self._left, self._act = after, act

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Any]:
        def advance(count: int) -> None:
            if unit == "steps":
                self._left -= count
                if self._left < 0:
                    self._act()

        yield advance


def interrupt() -> None:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt
