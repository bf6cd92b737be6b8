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
    """Lists those of `bindings` that have a key to display. Esc, Enter and `?` close it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space,q,f1,question_mark,ctrl+c", "dismiss", "close", priority=True)
    ]

    def __init__(self, bindings: Sequence[BindingType]) -> None:
        super().__init__()
        self._keys = [
            (binding.key_display, binding.description)
            for binding in bindings
            if isinstance(binding, Binding) and binding.key_display
        ]

    def compose(self) -> ComposeResult:
        """Draw one box with a line per key."""
        width = max(len(key) for key, _ in self._keys)
        with Vertical(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "Esc closes"
            for key, meaning in self._keys:
                yield Static(Content.assemble((key.ljust(width + 2), "bold"), meaning))
