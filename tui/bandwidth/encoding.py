"""Control sequences that turn one picture on a terminal into another, in few bytes.

Uses what a VT102 understands and what the Linux console, screen, tmux and mosh do too (ECMA-48):
no "scroll up", which the console lacks, but "index" at the bottom of a scroll region.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tui.bandwidth.cells import BLANK, PLAIN, Cell, Look, Picture, Row, blank_look, is_certain
from tui.bandwidth.scrolling import Scroll, find_scrolls

CLEAR = "\x1b[m\x1b[r\x1b[2J"
ERASE_TO_END = "\x1b[K"
INDEX, NEXT_LINE, REVERSE_INDEX = "\x1bD", "\x1bE", "\x1bM"
# Below this many, spaces are cheaper than "erase", which must be followed by a move.
LEAST_ERASED = 10
LONGEST_GAP = 12
ATTRIBUTE_OFF = {
    "1": "22",
    "2": "22",
    "3": "23",
    "4": "24",
    "5": "25",
    "6": "25",
    "7": "27",
    "8": "28",
    "9": "29",
    "21": "24",
    "51": "54",
    "52": "54",
    "53": "55",
}


class Place(NamedTuple):
    """A row and a column, from 0. The column is None where terminals differ, as at the edge."""

    y: int
    x: int | None


HOME = Place(0, 0)


def encode(old: Picture | None, new: Picture, start: Place | None, end: Place) -> str:
    """Return what to send so that a terminal that shows `old` shows `new`.

    `old` None means that nothing is known: all is drawn again. The cursor is expected at `start`
    (None: anywhere) and left at `end`; colours are expected and left plain. Nothing to change
    and nothing to move gives "".
    """
    if old is None:
        blank = Picture(new.width, new.height)
        return CLEAR + _changes(blank, new, None, end)
    plain = _changes(old, new, start, end)
    if len(plain) < 2 * new.width:  # a scroll costs 15 bytes, and looking for one some time
        return plain
    return min([plain, *_scrolled(old, new, end)], key=_bytes)


def _bytes(text: str) -> int:
    return len(text.encode())


def _scrolled(old: Picture, new: Picture, end: Place) -> list[str]:
    return [
        scroll_sequence(scroll) + _changes(scroll.apply(old), new, None, end)
        for scroll in find_scrolls(old, new)
    ]


def scroll_sequence(scroll: Scroll) -> str:
    """Return the sequence that makes the terminal scroll; it leaves the cursor anywhere."""
    up = scroll.rows > 0
    edge = scroll.bottom if up else scroll.top
    moves = (INDEX if up else REVERSE_INDEX) * abs(scroll.rows)
    return f"\x1b[{scroll.top + 1};{scroll.bottom + 1}r{_absolute(Place(edge, 0))}{moves}\x1b[r"


def _changes(old: Picture, new: Picture, start: Place | None, end: Place) -> str:
    pen = Pen(start, new.width)
    for y, (before, after) in enumerate(zip(old.rows, new.rows, strict=True)):
        if before is not after and before != after:
            _draw_row(pen, y, before, after)
    pen.take(PLAIN)
    pen.go(end.y, end.x or 0)
    return "".join(pen.sent)


def _draw_row(pen: Pen, y: int, before: Row, after: Row) -> None:
    if not all(is_certain(cell.text) for cell in (*before, *after)):
        # A terminal that disagrees on a width has put the rest of the row elsewhere.
        pen.go(y, 0)
        pen.erase_to_end()
        before = [BLANK] * len(after)
    for first, last in _runs(before, after):
        pen.go_over(y, first, after)
        pen.write(y, after, first, last)


def _runs(before: Row, after: Row) -> list[tuple[int, int]]:
    """Return the stretches of `after` that differ, as (first, one past the last)."""
    runs: list[tuple[int, int]] = []
    end = _end(after)
    for x, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        if runs and (runs[-1][1] == x or runs[-1][0] >= end):  # the blank end is one stretch
            runs[-1] = (runs[-1][0], x + 1)
        else:
            runs.append((x, x + 1))
    # The second half of a wide character cannot be written alone.
    return [(first - (after[first].text == ""), last) for first, last in runs]


class Pen:
    """The terminal's cursor and colours, and what has been sent to it."""

    def __init__(self, place: Place | None, width: int) -> None:
        self.place = place
        self.width = width
        self.look = PLAIN
        self.sent: list[str] = []

    def go(self, y: int, x: int) -> None:
        """Move to row `y` and column `x` the shortest way."""
        self.sent.append(move_sequence(self.place, Place(y, x)))
        self.place = Place(y, x)

    def take(self, look: Look) -> None:
        """Write in this look from now on."""
        if look != self.look:
            self.sent.append(look_sequence(self.look, look))
            self.look = look

    def go_over(self, y: int, x: int, row: Row) -> None:
        """Move as `go` does, or write again what lies between, if that is shorter."""
        place = self.place
        if place is not None and place.y == y and place.x is not None:
            gap = row[place.x : x]
            if 0 < len(gap) <= LONGEST_GAP and self._costs_less(gap, Place(y, x)):
                self.write(y, row, place.x, x)
                return
        self.go(y, x)

    def _costs_less(self, gap: Row, to: Place) -> bool:
        same_look = all(cell.text and self._shows(cell) for cell in gap)
        rewritten = sum(len(cell.text.encode()) for cell in gap)
        return same_look and rewritten <= len(move_sequence(self.place, to))

    def _shows(self, cell: Cell) -> bool:
        """Return whether `cell` needs no other look than the present one."""
        return cell.look == self.look or (cell.text == " " and cell.look == blank_look(self.look))

    def write(self, y: int, row: Row, first: int, last: int) -> None:
        """Write the cells of `row` from `first` up to `last`, with the cursor where it may be."""
        x, end = first, _end(row)
        while x < last:
            blanks = _blanks(row, x, last)
            if x >= end and blanks > len(ERASE_TO_END):
                self.go(y, x)
                self.erase_to_end()
                return
            if blanks > LEAST_ERASED:
                self.go(y, x)
                self.take(PLAIN)
                self.sent.append(f"\x1b[{blanks}X")
                x += blanks
            else:
                self._write_cell(row[x], y, x)
                x += 1

    def _write_cell(self, cell: Cell, y: int, x: int) -> None:
        if cell.text == "":  # the second half of a wide character
            self._arrive(y, x)
            return
        self.go(y, x)
        if not self._shows(cell):
            self.take(cell.look)
        self.sent.append(cell.text)
        self._arrive(y, x)
        if not is_certain(cell.text):
            self.place = None

    def _arrive(self, y: int, x: int) -> None:
        if self.place is not None:
            self.place = Place(y, x + 1 if x + 1 < self.width else None)

    def erase_to_end(self) -> None:
        """Blank the row from the cursor on."""
        self.take(PLAIN)
        self.sent.append(ERASE_TO_END)


def _end(row: Row) -> int:
    """Return where the blank end of `row` begins."""
    end = len(row)
    while end and row[end - 1] == BLANK:
        end -= 1
    return end


def _blanks(row: Row, first: int, last: int) -> int:
    """Return how many cells from `first` on are blank."""
    x = first
    while x < last and row[x] == BLANK:
        x += 1
    return x - first


@lru_cache(maxsize=8192)
def move_sequence(start: Place | None, to: Place) -> str:
    """Return the shortest sequence that moves the cursor from `start` (None: anywhere)."""
    if start == to:
        return ""
    ways = [_absolute(to)]
    if start is not None:
        ways += _relative(start, to)
    return min(ways, key=len)


def _absolute(to: Place) -> str:
    row = str(to.y + 1) if to.y else ""
    return f"\x1b[{row};{to.x + 1}H" if to.x else f"\x1b[{row}H"


def _relative(start: Place, to: Place) -> list[str]:
    x, down = to.x or 0, to.y - start.y
    right = _step(x, "C")
    if down == 0:
        return ["\r" + right, *_sideways(start.x, x)]
    ways = [NEXT_LINE * down + right] if down > 0 else []
    if start.x == x:
        ways += [INDEX * down, _step(down, "B")] if down > 0 else [_step(-down, "A")]
    return ways


def _sideways(start: int | None, x: int) -> list[str]:
    if start is None:
        return []
    back = max(0, start - x)
    return [_step(x - start, "C")] if x > start else ["\b" * back, _step(back, "D")]


def _step(cells: int, direction: str) -> str:
    if cells == 0:
        return ""
    return f"\x1b[{cells if cells > 1 else ''}{direction}"


@lru_cache(maxsize=8192)
def look_sequence(old: Look, new: Look) -> str:
    """Return the shortest sequence that changes the look of what is written."""
    link = f"\x1b]8;;{new.link}\x1b\\" if old.link != new.link else ""
    if old._replace(link=new.link) == new:
        return link
    on = [*new.attributes, *(code for code in (new.foreground, new.background) if code)]
    anew = ";".join(["", *on])
    return f"{link}\x1b[{min(anew, ';'.join(_difference(old, new)), key=len)}m"


def _difference(old: Look, new: Look) -> list[str]:
    """Return the codes that switch off and on what differs.

    One code switches off both bold and dim, or both underlines: what stays is switched on again.
    """
    off = {ATTRIBUTE_OFF[code] for code in old.attributes if code not in new.attributes}
    kept = [c for c in new.attributes if c in old.attributes and ATTRIBUTE_OFF[c] not in off]
    codes = [*sorted(off), *(code for code in new.attributes if code not in kept)]
    if old.foreground != new.foreground:
        codes.append(new.foreground or "39")
    if old.background != new.background:
        codes.append(new.background or "49")
    return codes
