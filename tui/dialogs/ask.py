"""Two short questions: one for a line of text, one for yes or no."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Button, Static

from tui.clean import clean, clean_line
from tui.dialogs.frame import Dialog
from tui.dialogs.line_input import LineInput


class AskScreen(Dialog[str]):
    """Asks for one line; the result is that line, clean and stripped, or None."""

    keys = (("Enter", "accept"), ("Esc", "cancel"))

    def __init__(self, title: str, value: str = "", placeholder: str = "") -> None:
        super().__init__(title)
        self._value, self._placeholder = value, placeholder
        self.add_class("narrow")

    def body(self) -> ComposeResult:
        """Show the line."""
        yield LineInput(self._value, self._placeholder, {"enter": "accept"})

    def action_accept(self) -> None:
        """Close with what is typed."""
        self.dismiss(clean_line(self.query_one(LineInput).value))


class ConfirmScreen(Dialog[bool]):
    """Asks whether to do what may lose something; the safe button has the focus at first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n", "answer(False)", "no"),
        Binding("left,up,right,down", "app.focus_next", "the other button"),
    ]

    def __init__(self, question: str, yes: str = "Delete", detail: str = "") -> None:
        super().__init__("Please confirm")
        self._question, self._yes, self._detail = clean_line(question), yes, clean(detail)
        self.keys = (("Y", yes.lower()), ("N or Esc", "cancel"), ("Tab", "other button"))
        self.add_class("narrow")

    def body(self) -> ComposeResult:
        """Show the question and the two buttons."""
        yield Static(Content(self._question), classes="question-line")
        if self._detail:
            yield Static(Content(self._detail))
        with Horizontal(classes="buttons"):
            yield Button(Content("[ Cancel ]"), id="cancel", compact=True)
            yield Button(Content(f"[ {self._yes} ]"), id="yes", compact=True)

    def action_answer(self, answer: bool) -> None:
        """Close with the answer."""
        self.dismiss(answer)

    def action_cancel(self) -> None:
        """Close with no."""
        self.dismiss(False)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")
