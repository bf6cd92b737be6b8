"""What the dialogs with a list share: the keys that move the choice.

Without a line to type in, the keys are bindings of the dialog; with one, `LineInput` hands them on.
"""

from __future__ import annotations

from typing import ClassVar, Generic

from textual import on
from textual.binding import Binding, BindingType

from tui.dialogs.frame import Dialog, Result
from tui.dialogs.rows import Rows


class ListDialog(Dialog[Result], Generic[Result]):
    """A dialog around `Rows`. Subclasses say in `action_choose` what Enter does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up"),
        Binding("down", "move(1)", "down"),
        Binding("pageup", "page(-1)", "a page up"),
        Binding("pagedown", "page(1)", "a page down"),
        Binding("home", "end(-1)", "the first"),
        Binding("end", "end(1)", "the last"),
        Binding("enter", "choose", "choose"),
    ]

    @property
    def rows(self) -> Rows:
        """Return the list."""
        return self.query_one(Rows)

    def action_move(self, rows: int) -> None:
        """Go down by `rows`, or up."""
        self.rows.move(rows)

    def action_page(self, pages: int) -> None:
        """Go down by `pages`, or up."""
        self.rows.page(pages)

    def action_end(self, direction: int) -> None:
        """Go to the first row or the last."""
        self.rows.move(direction * self.rows.count)

    async def action_choose(self) -> None:
        """Take the chosen row."""
        raise NotImplementedError

    @on(Rows.Clicked)
    async def _clicked(self) -> None:
        await self.action_choose()
