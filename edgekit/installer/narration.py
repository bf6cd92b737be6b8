"""What the installer says while it works: plain lines on stderr, a percentage on a terminal.

stdout belongs to the result. Knows nothing of what it narrates.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_EVERY_S = 0.2
_PLAIN_EVERY_S = 10.0


def format_bytes(size: int) -> str:
    """Return a size as people read it, in powers of ten: 105.3 MB."""
    if size < 1000:
        return f"{size} bytes"
    value, unit = float(size), "bytes"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 - the last unit reached is used below
        value /= 1000
        if value < 999.95:
            break
    return f"{value:.1f} {unit}"


class Narration:
    """Says each step once, and how far it is."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said = 0.0
        self._open = False

    def say(self, text: str) -> None:
        """Print one line."""
        self._end_line()
        print(text, file=sys.stderr, flush=True)

    def counting(self, text: str, total_bytes: int) -> Callable[[int], None]:
        """Say `text`; return a function that is told how many more bytes are done."""
        self.say(f"{text} ({format_bytes(total_bytes)})")
        self._said, done = time.monotonic(), [0]

        def count(size: int) -> None:
            done[0] += size
            now = time.monotonic()
            if now - self._said >= (_EVERY_S if self._terminal else _PLAIN_EVERY_S):
                self._said = now
                self._percentage(100 * done[0] // max(total_bytes, 1))

        return count

    def _percentage(self, percent: int) -> None:
        end = "\r" if self._terminal else "\n"
        print(f"  {min(percent, 100):3d} %", end=end, file=sys.stderr, flush=True)
        self._open = self._terminal

    def _end_line(self) -> None:
        if self._open:
            print(file=sys.stderr)
        self._open = False
