"""What a redacted export would change, shown before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from tui.clean import clean_line
from tui.dialogs.layout import shorten, sides
from tui.dialogs.lists import ListDialog
from tui.dialogs.rows import Rows
from tui.redaction import BEST_EFFORT, Finding

KIND_WIDTH = 11


class RedactionScreen(ListDialog[bool]):
    """Lists `findings`; the result is True to export to `path` redacted, or None."""

    keys = (
        ("Enter", "export redacted"),
        ("Up, Down", "scroll"),
        ("Esc", "cancel, nothing is written"),
    )
    other_lines = 11

    def __init__(self, findings: Sequence[Finding], path: Path | str) -> None:
        super().__init__("Export without personal data")
        self._findings = list(findings)
        self._path = clean_line(str(path))

    def body(self) -> ComposeResult:
        """Show what would be replaced, and what to think of it."""
        times = sum(finding.count for finding in self._findings)
        places = f"{times} place{'s' * (times != 1)}"
        yield Static(Content(f"{places} would be changed in {self._path}"), classes="path")
        yield Rows("nothing was found; the export would be unchanged")
        yield Static(Content(BEST_EFFORT), classes="detail")

    def on_mount(self) -> None:
        """Fill the list."""
        self.rows.show(len(self._findings), self._row)

    def _row(self, index: int, width: int) -> list[Content]:
        finding = self._findings[index]
        times = f"{finding.count} time{'s' * (finding.count != 1)}"
        replacement = f"-> {clean_line(finding.replacement)}"
        room = width - KIND_WIDTH - cell_len(replacement) - len(times) - 4
        left = Content.assemble(
            (clean_line(finding.kind).ljust(KIND_WIDTH + 1), "bold"),
            f"{shorten(clean_line(finding.text), max(8, room))} {replacement}",
        )
        return [sides(left, times, width)]

    async def action_choose(self) -> None:
        """Export."""
        self.dismiss(True)
