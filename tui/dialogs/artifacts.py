"""The picker of installed artifacts: how large, how true to the original and how fast each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from edgekit.errors import EdgekitError
from edgekit.units import format_bytes
from tui.clean import clean_line
from tui.dialogs.layout import shorten, sides
from tui.dialogs.lists import ListDialog
from tui.dialogs.rows import OTHER, Rows

if TYPE_CHECKING:
    from tui.setup import ArtifactChoice

SIZE, QUALITY, SPEED = 8, 14, 11  # widths of the columns
MEASURE = "KL divergence and top-1: edgekit check. Tokens/s: edgekit bench."
LOADED = " *"
SCROLL_BAR = 1
NARROWEST_TABLE = 56  # below, a name says more than figures


class ArtifactScreen(ListDialog["ArtifactChoice"]):
    """Lists what `list_artifacts` returns; it is called in a thread. `current` is the name of the
    one that is loaded. The result is the one to load, which has no problem, or None.
    """

    keys = (("Up, Down", "move"), ("Enter", "use"), ("Esc", "close"))
    other_lines = 10

    def __init__(
        self, list_artifacts: Callable[[], Sequence[ArtifactChoice]], current: str = ""
    ) -> None:
        super().__init__("Models")
        self._list_artifacts, self._current = list_artifacts, current
        self._choices: list[ArtifactChoice] = []

    def body(self) -> ComposeResult:
        """Show the table, and the rest about the chosen artifact below it."""
        yield Heading()
        yield Rows("reading")
        yield Static(classes="detail")
        yield Static(MEASURE, classes="note-line")

    def on_mount(self) -> None:
        """Read the artifacts while the box is drawn."""
        self.run_worker(self._read())

    async def _read(self) -> None:
        try:
            choices = await self.in_thread(self._list_artifacts)
        except EdgekitError as error:
            self.rows.empty = clean_line(error.message)
            self.rows.show(0, self._row)
            return
        self._choices = list(choices)
        names = [choice.name for choice in choices]
        chosen = names.index(self._current) if self._current in names else 0
        self.rows.empty = "no artifact is installed: make one with edgekit convert"
        self.rows.show(len(choices), self._row, chosen=chosen)
        if self._current in names:
            self.remark("* loaded")

    def _row(self, index: int, width: int) -> list[Content]:
        choice = self._choices[index]
        here = LOADED if choice.name == self._current else ""
        figures = _figures(choice) if width >= NARROWEST_TABLE else ""
        room = width - len(figures) - len(here) - 2
        name = Content(shorten(clean_line(choice.name), room))
        left = name.stylize("dim" if choice.problem else "bold") + here
        return [sides(left, figures, width)]

    @on(Rows.Chosen)
    def _describe(self) -> None:
        if self._choices:
            text = _about(self._choices[self.rows.chosen])
            self.query_one(".detail", Static).update(Content(text))

    async def action_choose(self) -> None:
        """Close with the chosen artifact, unless it cannot be chatted with."""
        choice = self._choices[self.rows.chosen] if self._choices else None
        if choice is not None and choice.problem:
            self.remark("this one cannot be used")
        elif choice is not None:
            self.dismiss(choice)


class Heading(Static):
    """The names of the columns."""

    def render(self) -> Content:
        """Lay the names out as `_figures` does."""
        titles = _columns("size", f"{'KL div.':>7} {'top-1':>6}", "tokens/s")
        width = self.content_size.width - SCROLL_BAR
        if width - len(OTHER) < NARROWEST_TABLE:
            titles = ""
        return sides(Content(f"{OTHER}name"), titles, width)


def _figures(choice: ArtifactChoice) -> str:
    size = format_bytes(choice.bytes)
    if choice.problem:
        return _columns(size, "cannot chat", "")
    quality, speed = "not checked", "not benched"
    if choice.kld_mean is not None:
        top1 = "-" if choice.top1_agreement is None else f"{choice.top1_agreement:.1%}"
        quality = f"{choice.kld_mean:>7.4f} {top1:>6}"
    if choice.decode_tokens_per_s is not None:
        speed = f"{choice.decode_tokens_per_s:.1f}"
    return _columns(size, quality, speed)


def _columns(size: str, quality: str, speed: str) -> str:
    return f"{size:>{SIZE}} {quality:>{QUALITY}} {speed:>{SPEED}}"


def _about(choice: ArtifactChoice) -> str:
    """Return what the table has no room for: the problem, or the rest of the facts; the path."""
    facts = [
        f"{choice.format} {choice.scheme}",
        f"context {choice.context_length} tokens",
        "" if choice.ttft_s is None else f"first token {choice.ttft_s:.2f} s",
    ]
    about = choice.problem or ", ".join(fact for fact in facts if fact)
    return f"{clean_line(about)}\n{clean_line(choice.path)}"
