"""A page to read: what `/context` and `/privacy` have to say."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.clean import clean
from tui.dialogs.frame import Dialog


class TextScreen(Dialog[None]):
    """Shows `body`, which scrolls. Esc, Enter and q close it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,q", "cancel", "close")]
    keys = (("Up, Down, PageUp, PageDown", "scroll"), ("Esc", "close"))
    gives_way = ".page"
    other_lines = 4

    def __init__(self, title: str, body: str) -> None:
        super().__init__(title)
        self._body = clean(body).expandtabs(4)

    def body(self) -> ComposeResult:
        """Show the page."""
        with VerticalScroll(classes="page"):
            yield Static(Content(self._body))
