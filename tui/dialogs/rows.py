"""A list of which only the rows in sight are drawn, so that 10,000 cost no more than ten.

It knows how many rows there are and asks for the text of one; it knows nothing of what they mean.
It takes no focus: the keys go to the dialog, or to the line that is typed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual

Draw = Callable[[int, int], Sequence[Content]]
CHOSEN, OTHER = "> ", "  "


class Rows(ScrollView, can_focus=False):
    """Shows rows of `lines` lines each; the one at `chosen` has a sign and stands out.

    `draw(index, width)` returns the lines of a row, each of at most `width` cells. Without rows,
    `empty` is shown.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--chosen", "rows--empty"}

    class Chosen(Message):
        """Another row is chosen, or the rows are other ones."""

    class Clicked(Message):
        """The chosen row was clicked."""

    chosen: reactive[int] = reactive(0, repaint=True)

    def __init__(self, empty: str = "") -> None:
        super().__init__()
        self.empty = empty
        self.count = 0
        self._lines_each = 1
        self._draw: Draw = lambda _index, _width: ()

    def show(self, count: int, draw: Draw, *, lines: int = 1, chosen: int = 0) -> None:
        """Show `count` rows, and choose the one at `chosen` or the nearest there is."""
        self.count, self._draw, self._lines_each = count, draw, lines
        self.virtual_size = Size(0, max(1, count * lines))
        self.chosen = chosen
        self._reveal()
        self.refresh(layout=True)
        self.post_message(self.Chosen())

    def validate_chosen(self, chosen: int) -> int:
        """Keep the choice among the rows."""
        return max(0, min(chosen, self.count - 1))

    def watch_chosen(self) -> None:
        """Bring the choice into sight."""
        self._reveal()
        self.post_message(self.Chosen())

    def move(self, rows: int) -> None:
        """Choose the row that is `rows` further down."""
        self.chosen += rows

    def page(self, pages: int) -> None:
        """Choose the row that is `pages` further down."""
        self.chosen += pages * max(1, self.scrollable_content_region.height // self._lines_each)

    def on_resize(self) -> None:
        """Keep the choice in sight."""
        self._reveal()

    def on_click(self, event: events.Click) -> None:
        """Choose by mouse, for those who have one."""
        index = (event.y + self.scroll_offset.y) // self._lines_each
        if index < self.count:
            self.chosen = index
            self.post_message(self.Clicked())

    def _reveal(self) -> None:
        height = self.scrollable_content_region.height
        top, lines = self.chosen * self._lines_each, self._lines_each
        first = min(self.scroll_offset.y, top)
        first = max(first, top + lines - height) if height else 0
        self.scroll_to(y=first, animate=False, immediate=True)

    def render_line(self, y: int) -> Strip:
        """Draw the line `y` of those in sight."""
        width = self.scrollable_content_region.width
        index, line = divmod(y + self.scroll_offset.y, self._lines_each)
        if not self.count and y == 0:
            return self._strip(Content(OTHER + self.empty), width, "rows--empty")
        if index >= self.count:
            return Strip.blank(width, self.rich_style)
        is_chosen = index == self.chosen
        sign = CHOSEN if is_chosen and line == 0 else OTHER
        drawn = self._draw(index, width - len(sign))
        content = Content(sign) + (drawn[line] if line < len(drawn) else "")
        return self._strip(content, width, "rows--chosen" if is_chosen else "")

    def _strip(self, content: Content, width: int, component: str) -> Strip:
        style = self.visual_style
        if component:  # `get_visual_style` forgets that a style is reversed
            text_style = self.get_component_styles(component).text_style
            style = self.get_visual_style(component) + Style(reverse=text_style.reverse)
        fitted = content.truncate(width, ellipsis=True, pad=True)
        strips = Visual.to_strips(self, fitted, width, 1, style)
        return strips[0] if strips else Strip.blank(width, style.rich_style)
