"""Progress on stderr: a bar on a terminal, one line per task elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from edgekit.progress import Advance
from edgekit.units import format_bytes

LABEL_COLUMNS = 38
REDRAW_S = 0.1
WIPE = "\r\x1b[J"  # the line, and what may stand below it


class Bars:
    """Draws the tasks of `edgekit.progress.Progress`. Only the outermost task has a bar."""

    def __init__(self) -> None:
        self._busy = False
        self._line: _Line | None = None

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        """Draw a bar while the block runs, then leave a line that says how long it took."""
        if self._busy:
            yield lambda _count: None
            return
        self._busy = True
        line = self._line = _Line(label, total, unit)
        try:
            yield line.advance
            line.finish()
        finally:
            line.clear()
            self._busy, self._line = False, None

    def say(self, words: str) -> None:
        """Draw the bar with `words` in place of its label, until the task ends."""
        if self._line is not None:
            self._line.say(words)


class _Line:
    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._shown = label
        self._done = 0
        self._start = time.monotonic()
        self._drawn = 0.0
        self._terminal = sys.stderr.isatty()
        self._draw()

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._drawn > REDRAW_S:
            self._draw()

    def say(self, words: str) -> None:
        self._shown = words  # drawn with the next count

    def finish(self) -> None:
        seconds = time.monotonic() - self._start
        text = f"{self._label.ljust(LABEL_COLUMNS)} {self._amount(self._done)}, {seconds:.1f} s"
        click.echo((WIPE if self._terminal else "") + f"  {text}", err=True)

    def clear(self) -> None:
        if self._terminal:
            click.echo(WIPE, nl=False, err=True)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._terminal:
            click.echo(f"\r\x1b[K  {self._text()}", nl=False, err=True)

    def _text(self) -> str:
        label = self._shown[:LABEL_COLUMNS].ljust(LABEL_COLUMNS)
        if not self._total:
            return f"{label} {self._amount(self._done)}"
        share = min(1.0, self._done / self._total)
        bar = ("#" * int(share * 20)).ljust(20, ".")
        return f"{label} [{bar}] {share:4.0%} of {self._amount(self._total)}"

    def _amount(self, count: int) -> str:
        if self._unit == "bytes":
            return format_bytes(count)
        return f"{count / 1e6:.1f}M {self._unit}" if count >= 10**6 else f"{count} {self._unit}"
