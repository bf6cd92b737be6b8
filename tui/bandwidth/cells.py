"""A picture as a grid of cells: what each place on the screen shows, and how it looks.

Takes over what Textual would have drawn, strip by strip. Sends nothing, and knows no app.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.strip import Strip

# What Textual's compositor hands over: the whole screen, or the parts of rows that changed.
Drawn = LayoutUpdate | ChopsUpdate
# ECMA-48, "select graphic rendition", in the order of Rich's attributes.
ATTRIBUTES = {
    "bold": "1",
    "dim": "2",
    "italic": "3",
    "underline": "4",
    "blink": "5",
    "blink2": "6",
    "reverse": "7",
    "conceal": "8",
    "strike": "9",
    "underline2": "21",
    "frame": "51",
    "encircle": "52",
    "overline": "53",
}
# What can be seen on a cell with nothing in it.
LINES = frozenset({"4", "9", "21", "51", "52", "53"})
REVERSE = "7"
# Wide on every terminal: Hangul, Chinese and Japanese characters, and the full-width forms.
CERTAINLY_WIDE = (
    (0x1100, 0x115F),
    (0x2E80, 0x303E),
    (0x3041, 0xA4CF),
    (0xA960, 0xA97C),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE6F),
    (0xFF01, 0xFF60),
    (0xFFE0, 0xFFE6),
)
# Symbols that some terminals draw as emoji, two cells wide.
PERHAPS_EMOJI = ((0x203C, 0x203C), (0x2049, 0x2049), (0x2300, 0x23FF), (0x2600, 0x27BF))


class Look(NamedTuple):
    """How a cell looks: codes of `select graphic rendition`, "" for the terminal's own colour."""

    attributes: tuple[str, ...] = ()
    foreground: str = ""
    background: str = ""
    link: str = ""


PLAIN = Look()


class Cell(NamedTuple):
    """One place. A wide character has the empty text in the place to its right."""

    text: str
    look: Look


BLANK = Cell(" ", PLAIN)
Row = list[Cell]


@lru_cache(maxsize=4096)
def look_of(style: Style | None, colours: ColorSystem) -> Look:
    """Return the look of Rich's `style` on a terminal with these colours."""
    if style is None:
        return PLAIN
    return Look(
        tuple(code for name, code in ATTRIBUTES.items() if getattr(style, name)),
        _colour(style.color, colours, foreground=True),
        _colour(style.bgcolor, colours, foreground=False),
        _link(style.link),
    )


def _link(address: str | None) -> str:
    """Return `address` if it cannot command the terminal."""
    return address if address and address.isascii() and address.isprintable() else ""


def _colour(colour: Color | None, colours: ColorSystem, *, foreground: bool) -> str:
    if colour is None or colour.is_default:
        return ""
    return ";".join(colour.downgrade(colours).get_ansi_codes(foreground=foreground))


@lru_cache(maxsize=4096)
def blank_look(look: Look) -> Look:
    """Return the simplest look that shows a space as `look` does."""
    if REVERSE in look.attributes:
        return look
    lines = tuple(code for code in look.attributes if code in LINES)
    return Look(lines, look.foreground if lines else "", look.background, look.link)


@lru_cache(maxsize=4096)
def is_certain(text: str) -> bool:
    """Return whether all terminals agree on the width of what a cell holds."""
    if text.isascii():
        return True
    if len(text) > 1 or unicodedata.category(text) in ("Mn", "Me", "Mc", "Cf", "Cn", "Co", "Cs"):
        return False
    if cell_len(text) == 2:
        return _within(ord(text), CERTAINLY_WIDE)
    return ord(text) <= 0xFFFF and not _within(ord(text), PERHAPS_EMOJI)


def _within(code: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def clusters(text: str) -> list[str]:
    """Split `text` into what shares a place: a character, with the marks that belong to it.

    Control characters are dropped: in a cell they could only command the terminal.
    """
    found: list[str] = []
    for character in text:
        if unicodedata.category(character) == "Cc":
            continue
        if found and _joins(found[-1], character):
            found[-1] += character
        elif cell_len(character):  # a mark with nothing before it has no place
            found.append(character)
    return found


def _joins(cluster: str, character: str) -> bool:
    return not cell_len(character) or cell_len(cluster + character) == cell_len(cluster)


def cells_of(text: str, look: Look) -> Row:
    """Return one cell for each place that `text` takes."""
    space = Cell(" ", blank_look(look))
    if text.isascii() and text.isprintable():
        return [space if character == " " else Cell(character, look) for character in text]
    row: Row = []
    for cluster in clusters(text):
        row.append(space if cluster == " " else Cell(cluster, look))
        row += [Cell("", look)] * (cell_len(cluster) - 1)
    return row


def row_of(strips: Iterable[Strip | None], colours: ColorSystem) -> Row:
    """Return the cells of strips that lie side by side."""
    row: Row = []
    for strip in strips:
        for text, style, control in strip or ():
            if not control:
                row += cells_of(text, look_of(style, colours))
    return row


class Picture:
    """What the screen is to show. A row is replaced, never changed, so that copies may share it."""

    def __init__(self, width: int, height: int, rows: list[Row] | None = None) -> None:
        self.width = width
        self.height = height
        self.rows = rows if rows is not None else [[BLANK] * width for _ in range(height)]

    def copy(self) -> Picture:
        """Return a picture that stays as this one is now."""
        return Picture(self.width, self.height, list(self.rows))

    def put(self, y: int, x: int, cells: Row) -> None:
        """Replace the cells of row `y` from column `x`; what lies outside is cut off."""
        if not (0 <= y < self.height and 0 <= x < self.width):
            return
        end = min(x + len(cells), self.width)
        row = (self.rows[y][:x] + cells + self.rows[y][end:])[: self.width]
        _mend(row, x)
        _mend(row, end)
        self.rows[y] = row

    def shows(self, update: Drawn) -> bool:
        """Return whether `update` is for a screen of this size."""
        return size_of(update) == (self.width, self.height)

    def paint(self, update: Drawn, colours: ColorSystem) -> None:
        """Draw what Textual would have sent."""
        if isinstance(update, LayoutUpdate):
            for y, strips in enumerate(update.strips, update.region.y):
                self.put(y, update.region.x, row_of(strips, colours))
        else:
            self._paint_chops(update, colours)

    def _paint_chops(self, update: ChopsUpdate, colours: ColorSystem) -> None:
        """Draw the parts of rows that have changed, cut as ChopsUpdate.render_segments does."""
        for y, left, right in update.spans:
            ends = update.chop_ends[y]
            for end, (x, strip) in zip(ends, update.chops[y].items(), strict=False):
                if strip is not None and x <= right and end > left:
                    cut = strip if end <= right else strip.crop(0, right - x)
                    self.put(y, x, row_of([cut], colours))


def _mend(row: Row, seam: int) -> None:
    """Put a space for each half of a wide character whose other half the seam has cut off."""
    left, right = seam - 1, seam
    left_is_wide = 0 <= left < len(row) and _is_wide(row[left])
    right_is_half = right < len(row) and row[right].text == ""
    if left_is_wide and not right_is_half:
        row[left] = Cell(" ", blank_look(row[left].look))
    elif right_is_half and not left_is_wide:
        row[right] = BLANK


def _is_wide(cell: Cell) -> bool:
    return not cell.text.isascii() and cell_len(cell.text) == 2


def size_of(update: Drawn) -> tuple[int, int]:
    """Return the width and height of the screen that `update` is for."""
    if isinstance(update, LayoutUpdate):
        return update.region.width, update.region.height
    return max((ends[-1] for ends in update.chop_ends if ends), default=0), len(update.chops)
