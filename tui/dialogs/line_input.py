"""One line to type in, whose dialog also gets keys such as Up and Enter while it has the focus."""

from __future__ import annotations

from collections.abc import Mapping

from textual import events
from textual.message import Message
from textual.widgets import Input

from tui.clean import clean_line, clean_paste

MOVES: Mapping[str, str] = {
    "up": "move(-1)",
    "down": "move(1)",
    "pageup": "page(-1)",
    "pagedown": "page(1)",
    "enter": "choose",
}


class LineInput(Input):
    """Posts `Pressed` with the action of `keys` for those keys, in step with what is typed.

    As bindings they would run in the app, while letters are still on their way to this widget.
    """

    class Pressed(Message):
        """A key of the dialog was pressed here."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(
        self,
        value: str = "",
        placeholder: str = "",
        keys: Mapping[str, str] = MOVES,
        id: str | None = None,  # noqa: A002 - Textual's name for it
    ) -> None:
        super().__init__(
            clean_line(value),
            placeholder,
            compact=True,
            select_on_focus=False,
            id=id,
        )
        self._keys = keys
        self.cursor_blink = False  # a still screen sends nothing over a slow line

    def on_key(self, event: events.Key) -> None:
        """Hand the dialog its keys before the input sees them."""
        action = self._keys.get(event.key)
        if event.key == "delete" and self.cursor_position < len(self.value):
            return
        if action is not None:
            event.stop()
            event.prevent_default()
            self.post_message(self.Pressed(action))

    def on_paste(self, event: events.Paste) -> None:
        """Make a paste one clean line before the input takes its first."""
        event.text = clean_line(clean_paste(event.text))
