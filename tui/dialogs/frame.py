"""What all dialogs share: a box with a title, a line of keys below, and Esc.

It knows nothing of what is inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.clean import clean_line
from tui.dialogs.line_input import LineInput

Result = TypeVar("Result")
Found = TypeVar("Found")
Keys = Sequence[tuple[str, str]]


def key_line(keys: Keys) -> Content:
    """Return the keys and what they do on one line, which may wrap."""
    parts = [
        Content.assemble((key, "bold"), f"\N{NO-BREAK SPACE}{_whole(does)}") for key, does in keys
    ]
    return Content("  ").join(parts)


def _whole(text: str) -> str:
    """Return `text` so that it is not broken over two lines."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


class Dialog(ModalScreen[Result | None], Generic[Result]):
    """A box. Subclasses give `keys`, fill `body` and dismiss with a result; Esc gives None.

    `other_lines` is the height of all but the widget that `gives_way` selects, which may fill the
    rest of the terminal; 0 if the style sheet sets the heights.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+c", "cancel", "close")]
    keys: Keys = (("Esc", "close"),)
    gives_way: ClassVar[str] = "Rows"
    other_lines: ClassVar[int] = 0

    def __init__(self, heading: str) -> None:
        super().__init__()
        self._heading = clean_line(heading)

    def compose(self) -> ComposeResult:
        """Draw the box around `body`."""
        with Vertical(classes="dialog") as box:
            box.border_title = Content(self._heading)
            yield from self.body()
            yield Static(key_line(self.keys), classes="keys")

    def body(self) -> ComposeResult:
        """Yield the widgets in the box."""
        raise NotImplementedError

    def on_resize(self, event: events.Resize) -> None:
        """Leave room for the line of keys, and for what else there is."""
        if self.other_lines:
            room = max(1, event.size.height - self.other_lines)
            self.query_one(self.gives_way).styles.max_height = room

    def action_cancel(self) -> None:
        """Close without a result."""
        self.dismiss(None)

    def remark(self, text: str) -> None:
        """Say `text` on the box's lower edge."""
        self.query_one(".dialog").border_subtitle = Content(clean_line(text))

    async def in_thread(self, work: Callable[..., Found], *arguments: object) -> Found:
        """Return what `work` does in a thread, and raise what it raises.

        Ends the caller, as if it was cancelled, if the dialog is closed meanwhile: there is
        nothing left to show it in.
        """
        try:
            return await asyncio.to_thread(work, *arguments)
        finally:
            if self not in self.app.screen_stack:
                raise asyncio.CancelledError

    @on(LineInput.Pressed)
    async def _line_key(self, event: LineInput.Pressed) -> None:
        event.stop()
        await self.run_action(event.action)
