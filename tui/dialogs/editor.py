"""Several lines to type, with the keys of the prompt: Enter accepts, Ctrl+J breaks the line."""

from __future__ import annotations

from typing import Any

from textual import events, on, work
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import TextArea

from tui.clean import clean, clean_paste
from tui.dialogs.ask import ConfirmScreen
from tui.dialogs.frame import Dialog, Keys

EDITOR_KEYS: Keys = (
    ("Enter", "accept"),
    ("Ctrl+J", "new line"),
    ("Ctrl+Z", "undo"),
    ("Esc", "cancel"),
)


class Editor(TextArea):
    """Posts `Accepted` for Enter, in step with what is typed."""

    class Accepted(Message):
        """Enter was pressed."""

    def __init__(self, text: str, placeholder: str = "") -> None:
        super().__init__(
            clean(text),
            compact=True,
            tab_behavior="focus",
            placeholder=placeholder,
            highlight_cursor_line=False,
        )
        self.cursor_blink = False  # a still screen sends nothing over a slow line

    def on_mount(self) -> None:
        """Begin where the text ends."""
        self.move_cursor(self.document.end)

    def on_key(self, event: events.Key) -> None:
        """Handle Enter and its relatives before the text area sees them."""
        if event.key == "enter":
            self.post_message(self.Accepted())
        elif event.key in ("ctrl+j", "alt+enter", "shift+enter"):
            self.replace("\n", *self.selection, maintain_selection_offset=False)
        else:
            return
        event.stop()
        event.prevent_default()

    def on_paste(self, event: events.Paste) -> None:
        """Clean a paste before the text area inserts it."""
        event.text = clean_paste(event.text)


class EditScreen(Dialog[str]):
    """Edits `text`; the result is the new text, or None. Esc asks before it loses changes."""

    keys = EDITOR_KEYS
    gives_way = "Editor"
    other_lines = 4

    def __init__(self, title: str, text: str) -> None:
        super().__init__(title)
        self._text = clean(text)

    def body(self) -> ComposeResult:
        """Show the text."""
        yield Editor(self._text)

    @on(Editor.Accepted)
    def _accepted(self, event: Editor.Accepted) -> None:
        event.stop()
        self.dismiss(self.query_one(Editor).text)

    def action_cancel(self) -> None:
        """Close without a result."""
        self._leave()

    @work
    async def _leave(self) -> None:
        if self.query_one(Editor).text == self._text or await discards(self):
            self.dismiss(None)


async def discards(screen: Screen[Any]) -> bool:
    """Return whether the user gives up what was typed. To be awaited in a worker."""
    confirm = ConfirmScreen("Discard what you typed?", yes="Discard")
    answer = await screen.app.push_screen_wait(confirm)
    return answer is True
