"""Finds rows that have moved up or down, so that the terminal can move them itself."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from tui.bandwidth.cells import BLANK, Picture, Row

# The last columns hold a scroll bar, which does not move with the rows.
SCROLL_BAR = 2
MOST_GUESSES = 3


class Scroll(NamedTuple):
    """Rows `top` to `bottom`, both included, move up by `rows` (down, if that is negative)."""

    top: int
    bottom: int
    rows: int

    def apply(self, picture: Picture) -> Picture:
        """Return what the terminal shows after it has scrolled: blank rows come in."""
        blanks = [[BLANK] * picture.width for _ in range(abs(self.rows))]
        block = picture.rows[self.top : self.bottom + 1]
        moved = block[self.rows :] + blanks if self.rows > 0 else blanks + block[: self.rows]
        rows = picture.rows[: self.top] + moved + picture.rows[self.bottom + 1 :]
        return Picture(picture.width, picture.height, rows)


def find_scrolls(old: Picture, new: Picture) -> list[Scroll]:
    """Return scrolls that may bring `old` nearer to `new`, most likely first."""
    votes = Counter(_distances(old, new))
    best = [rows for rows, _ in votes.most_common(MOST_GUESSES)]
    return [scroll for rows in best if (scroll := _region(old, new, rows)) is not None]


def _distances(old: Picture, new: Picture) -> list[int]:
    """Return, for each row of `new` that stands elsewhere in `old`, by how many rows it moved."""
    places: dict[str, list[int]] = {}
    before = [_text(row) for row in old.rows]
    for y, text in enumerate(before):
        places.setdefault(text, []).append(y)
    after = [_text(row) for row in new.rows]
    return [
        place - y
        for y, text in enumerate(after)
        if text and text != before[y]
        for place in places.get(text, ())
    ]


def _text(row: Row) -> str:
    return "".join([cell.text for cell in row[:-SCROLL_BAR]]).rstrip()


def _region(old: Picture, new: Picture, rows: int) -> Scroll | None:
    """Return the region whose move by `rows` saves the most cells, or None if none does.

    The best stretch of rows is the one with the largest sum of savings (Kadane's algorithm).
    """
    best = running = 0
    best_first = best_last = first = -1
    for y in range(max(0, -rows), min(new.height, new.height - rows)):
        saved = _differences(new.rows[y], old.rows[y]) - _differences(
            new.rows[y], old.rows[y + rows]
        )
        if running <= 0:
            running, first = 0, y
        running += saved
        if running > best:
            best, best_first, best_last = running, first, y
    if best <= 0:
        return None
    return Scroll(min(best_first, best_first + rows), max(best_last, best_last + rows), rows)


def _differences(left: Row, right: Row) -> int:
    if left is right:
        return 0
    return sum([a != b for a, b in zip(left, right, strict=True)])
