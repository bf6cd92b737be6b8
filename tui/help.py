"""The help: every key on one screen, read from the bindings themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static


class HelpScreen(ModalScreen[None]):
    """Lists `bindings` that have a key to display and a description. Any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space,q,f1,question_mark,ctrl+c", "dismiss", "close", priority=True)
    ]

    def __init__(self, bindings: Sequence[Binding]) -> None:
        super().__init__()
        self._bindings = [b for b in bindings if b.key_display and b.description]

    def compose(self) -> ComposeResult:
        """Draw one box with a line per key."""
        width = max(len(b.key_display or "") for b in self._bindings)
        with Vertical(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "Esc closes"
            for binding in self._bindings:
                key = (binding.key_display or "").ljust(width + 2)
                yield Static(Content.assemble((key, "bold"), binding.description))
