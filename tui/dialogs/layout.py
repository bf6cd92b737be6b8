"""How text is fitted into a dialog's columns. Knows no widget and no store."""

from __future__ import annotations

import re
import time

from rich.cells import cell_len, chop_cells
from textual.content import Content

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
BEFORE_MATCH = 12
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


def sides(left: Content, right: Content | str, width: int) -> Content:
    """Return `left` and `right` at the two ends of `width` cells; `left` is cut to fit."""
    end = Content(right) if isinstance(right, str) else right
    room = max(0, width - end.cell_length - (2 if end.cell_length else 0))
    start = left.truncate(room, ellipsis=True)
    return start + " " * max(0, width - start.cell_length - end.cell_length) + end


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` cells, without its middle if it is too long.

    An artifact's name says its family at the start and its quantisation at the end.
    """
    if cell_len(text) <= width:
        return text
    if width < 3:
        return chop_cells(text, width)[0] if width > 0 else ""
    tail = width // 2 - 1
    end = chop_cells(text[::-1], tail)[0][::-1] if tail else ""
    return f"{chop_cells(text, width - tail - 1)[0]}…{end}"


def ago(at: float, now: float) -> str:
    """Return how long before `now` the time `at` was; both in seconds since 1970.

    After a month, and for a time that cannot be, it is the local date.
    """
    seconds = now - at
    if -MINUTE_S < seconds < MINUTE_S:  # clocks are set back a little now and then
        return "just now"
    if 0 < seconds < HOUR_S:
        return f"{seconds // MINUTE_S:.0f} min ago"
    if 0 < seconds < DAY_S:
        return f"{seconds // HOUR_S:.0f} h ago"
    if 0 < seconds < 30 * DAY_S:
        days = int(seconds // DAY_S)
        return f"{days} day{'s' * (days > 1)} ago"
    try:
        return time.strftime("%Y-%m-%d", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # a damaged store
        return "no date"


def marked(text: str, typed: str, width: int) -> Content:
    """Return at most `width` cells of `text` with what was searched for marked, the first in sight.

    `typed` are words and "quoted phrases", as the store's search reads them.
    """
    terms = [(quoted or word).split() for quoted, word in _TERM.findall(typed)]
    patterns = [r"\s+".join(map(re.escape, term)) for term in terms if term]
    pattern = re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)
    first = pattern.search(text)
    if first is not None and cell_len(text[: first.end()]) > width:
        text = "…" + text[max(0, first.start() - BEFORE_MATCH) :]
    content = Content(text)
    for match in pattern.finditer(text):
        content = content.stylize("bold underline", match.start(), match.end())
    return content.truncate(width, ellipsis=True)
