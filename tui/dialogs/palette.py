"""The command palette: every command, found by a few letters of its name or of what it does."""

from __future__ import annotations

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input

from tui.commands import Command
from tui.dialogs.layout import sides
from tui.dialogs.line_input import LineInput
from tui.dialogs.lists import ListDialog
from tui.dialogs.rows import Rows

NAME_WIDTH = 12


class PaletteScreen(ListDialog[Command]):
    """Lists `commands`, best match first; the result is the one to run, or None."""

    keys = (("Up, Down", "move"), ("Enter", "run"), ("Esc", "close"))

    def __init__(self, commands: Sequence[Command]) -> None:
        super().__init__("Commands")
        self._commands = list(commands)
        self._found = self._commands
        self.add_class("tall")

    def body(self) -> ComposeResult:
        """Show the line that filters, and the commands below it."""
        yield LineInput(placeholder="Type to find a command")
        yield Rows("no command is like that")

    def on_mount(self) -> None:
        """Begin with all commands."""
        self.rows.show(len(self._found), self._row)

    def _row(self, index: int, width: int) -> list[Content]:
        command = self._found[index]
        name = f"/{command.name}".ljust(NAME_WIDTH)
        left = Content.assemble((name, "bold"), command.summary)
        return [sides(left, command.key, width)]

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        self._found = matching(self._commands, event.value)
        self.rows.show(len(self._found), self._row)

    async def action_choose(self) -> None:
        """Close with the chosen command."""
        if self._found:
            self.dismiss(self._found[self.rows.chosen])


def matching(commands: Sequence[Command], text: str) -> list[Command]:
    """Return the commands that match `text`, best first; all of them if it is blank.

    A name that begins with it comes before one that holds it, then a summary that holds all the
    words, then a name that holds the letters in this order.
    """
    wanted = text.strip().lstrip("/").lower()
    ranked = [(_rank(command, wanted), command) for command in commands]
    kept = [(rank, command) for rank, command in ranked if rank is not None]
    return [command for _, command in sorted(kept, key=lambda pair: pair[0])]


def _rank(command: Command, wanted: str) -> int | None:
    name, summary = command.name.lower(), command.summary.lower()
    if name.startswith(wanted):
        return 0
    if wanted in name:
        return 1
    if all(word in f"{name} {summary}" for word in wanted.split()):
        return 2
    letters = iter(name)
    return 3 if all(letter in letters for letter in wanted) else None
