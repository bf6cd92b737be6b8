"""The help: every key and command on one screen, read from the bindings and the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.commands import Command

Row = tuple[str, str]


class HelpScreen(ModalScreen[None]):
    """Two columns: those of `keys` that have a key to display, and `commands`.

    `turn_keys` work on a turn that Shift+Tab has marked. It fits a terminal of 80 by 24.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space,q,f1,question_mark,ctrl+c", "dismiss", "close", priority=True)
    ]

    def __init__(
        self,
        keys: Sequence[BindingType],
        turn_keys: Sequence[BindingType],
        commands: Sequence[Command],
    ) -> None:
        super().__init__()
        named = {command.key for command in commands}
        self._keys = [row for row in _rows(keys) if row[0] not in named]
        self._turn_keys = _rows(turn_keys)
        self._commands = [(f"/{c.name}", f"{c.key:<7}{c.summary}") for c in commands]

    def compose(self) -> ComposeResult:
        """Draw one box."""
        left = [*_lines(self._keys), Content(""), Content("Shift+Tab marks a turn:")]
        left += _lines(self._turn_keys)
        with VerticalScroll(id="help") as box, Horizontal(classes="columns"):
            box.border_title = "Keys and commands"
            box.border_subtitle = "Esc closes"
            yield Static(Content("\n").join(left), classes="column")
            yield Static(Content("\n").join(_lines(self._commands)), classes="column")


def _rows(bindings: Sequence[BindingType]) -> list[Row]:
    return [
        (binding.key_display, binding.description)
        for binding in bindings
        if isinstance(binding, Binding) and binding.key_display
    ]


def _lines(rows: Sequence[Row]) -> list[Content]:
    width = max(len(name) for name, _ in rows)
    return [Content.assemble((name.ljust(width + 1), "bold"), meaning) for name, meaning in rows]
