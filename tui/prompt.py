"""The prompt: a text area where Enter sends, pasted lines stay lines, and Up finds old questions."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from tui.clean import clean_paste
from tui.history import History
from tui.messages import QuestionSubmitted


class Prompt(TextArea):
    """Posts QuestionSubmitted; the app clears it with `accept` once the question is on its way."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "send", key_display="Enter", priority=True),
        Binding(
            "ctrl+j,alt+enter,shift+enter",
            "newline",
            "new line (also Alt+Enter, Shift+Enter)",
            key_display="Ctrl+J",
            priority=True,
        ),
        Binding("up", "cursor_up", "earlier question, from the first line", key_display="Up"),
        Binding("down", "cursor_down", "later question, from the last line", key_display="Down"),
        Binding("question_mark", "help", "this help, if nothing is typed", key_display="?"
                , priority=True),
    ]

    def __init__(self) -> None:
        super().__init__(
            id="prompt",
            compact=True,
            tab_behavior="focus",
            placeholder="Type a message",
            highlight_cursor_line=False,
        )
        self.history = History()

    def accept(self) -> None:
        """Empty the prompt and remember its text."""
        self.history.add(self.text)
        self.replace_all("")

    def give_back(self, text: str) -> None:
        """Put `text` back, before whatever has been typed since."""
        self.replace_all(f"{text}\n\n{self.text}" if self.text.strip() else text)

    def replace_all(self, text: str) -> None:
        """Show `text` with the cursor at its end. Undo brings the text before it back."""
        self.replace(text, self.document.start, self.document.end, maintain_selection_offset=False)
        self.move_cursor(self.document.end)

    def action_submit(self) -> None:
        """Send what is typed, unless it is blank."""
        if self.text.strip():
            self.post_message(QuestionSubmitted(self.text.strip()))

    def action_newline(self) -> None:
        """Break the line at the cursor."""
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    async def action_help(self) -> None:
        """Open the help, unless the question mark belongs to a question."""
        if self.text:
            raise SkipAction
        await self.app.run_action("help")

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up, or to the question before this one from the first line."""
        if select or self._cursor_row() > 0:
            super().action_cursor_up(select)
        elif (text := self.history.older(self.text)) is not None:
            self.replace_all(text)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down, or to the question after this one from the last line."""
        if select or self._cursor_row() < self.wrapped_document.height - 1:
            super().action_cursor_down(select)
        elif (text := self.history.newer()) is not None:
            self.replace_all(text)

    def _cursor_row(self) -> int:
        """Return the row of the cursor, counted as wrapped on the screen."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def on_paste(self, event: events.Paste) -> None:
        """Clean a paste before the text area inserts it."""
        event.text = clean_paste(event.text)
