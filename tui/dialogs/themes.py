"""The picker of colours: each is shown on the whole screen while it is chosen."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.content import Content

from tui.dialogs.lists import ListDialog
from tui.dialogs.rows import Rows


class ThemeScreen(ListDialog[str]):
    """Lists the themes of the app; the result is the name of one, or None.

    The app wears the chosen theme at once; Esc brings back the one it wore before.
    """

    keys = (("Up, Down", "try"), ("Enter", "keep"), ("Esc", "as before"))
    other_lines = 5

    def __init__(self) -> None:
        super().__init__("Colours")
        self._names: list[str] = []
        self._before = ""
        self.add_class("narrow")

    def body(self) -> ComposeResult:
        """Show the names."""
        yield Rows()

    def on_mount(self) -> None:
        """Begin with the theme that is worn."""
        self._before = self.app.theme
        self._names = sorted(self.app.available_themes)
        chosen = self._names.index(self._before)
        self.rows.show(len(self._names), self._row, chosen=chosen)

    def _row(self, index: int, _width: int) -> list[Content]:
        name = self._names[index]
        return [Content(f"{name} (as before)" if name == self._before else name)]

    @on(Rows.Chosen)
    def _try(self) -> None:
        if self._names:
            self.app.theme = self._names[self.rows.chosen]

    async def action_choose(self) -> None:
        """Keep the theme."""
        self.dismiss(self._names[self.rows.chosen])

    def action_cancel(self) -> None:
        """Wear the theme that was worn before."""
        self.app.theme = self._before
        self.dismiss(None)
