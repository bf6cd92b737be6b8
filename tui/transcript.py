"""The conversation as the user sees it: questions, streamed Markdown answers, and notices.

Shows what it is given. Nothing here asks a model, opens a link or fetches an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui.clean import clean
from tui.conversation import Turn
from tui.turn_view import TurnView

# Each answer is a widget with a widget for each of its paragraphs: a chat of hundreds of turns
# takes seconds to lay out, and nobody reads it all at once.
TURNS_AT_ONCE = 12


class Notice(Static):
    """A problem, told in words: what happened, and what to do next."""

    def __init__(self, message: str, hint: str = "", title: str = "Error") -> None:
        lines: list[str | tuple[str, str]] = [(f"{title}: ", "bold"), clean(message)]
        if hint:
            lines += ["\n", ("Try: ", "bold"), clean(hint)]
        super().__init__(Content.assemble(*lines), classes="notice")


class Welcome(Static):
    """What an empty chat says instead of nothing."""

    KEYS: ClassVar = (
        ("Enter", "sends what you type below"),
        ("Ctrl+J", "starts a new line"),
        ("Esc", "stops an answer"),
        ("Ctrl+O", "opens an earlier chat"),
        ("/", "begins a command, as in /attach notes.txt"),
        ("F1 or ?", "shows all keys and commands"),
        ("Ctrl+Q", "quits"),
    )

    def __init__(self, model: str, protection: str = "") -> None:
        width = max(len(key) for key, _ in self.KEYS)
        parts: list[str | tuple[str, str]] = [(f"Chat with {model}", "bold"), "\n"]
        for key, meaning in self.KEYS:
            parts += ["\n", (key.ljust(width + 2), "bold"), meaning]
        if protection:
            parts += ["\n\n", protection]
        super().__init__(Content.assemble(*parts), classes="welcome")


class Transcript(VerticalScroll, can_focus=False):
    """Turns and notices, oldest first. Follows the end unless the user has scrolled up."""

    def __init__(self) -> None:
        super().__init__()
        self._earlier: list[Turn] = []

    def compose(self) -> ComposeResult:
        """Keep a line at the top for what is not drawn yet."""
        yield Static(id="earlier", markup=False)

    def on_mount(self) -> None:
        """Hide the line until there is something to say."""
        self._count_earlier()

    @property
    def views(self) -> list[TurnView]:
        """Return the turns that are drawn, oldest first."""
        return list(self.query(TurnView))

    def view_of(self, question_id: str) -> TurnView | None:
        """Return the view of the turn with this question, if it is drawn."""
        return next((v for v in self.views if v.turn.question.id == question_id), None)

    async def add(self, block: Widget) -> None:
        """Show `block` at the end, and follow the end again."""
        await self.query(Welcome).remove()
        await self.mount(block)
        self.anchor()

    async def show(self, turns: Sequence[Turn], empty: Widget) -> None:
        """Show these turns and nothing else, or `empty` if there are none.

        What is drawn already and stays the same is not drawn again.
        """
        drawn = self.views
        shared = 0
        start = len(self._earlier)
        while shared < min(len(drawn), len(turns) - start) and drawn[shared].shows(
            turns[start + shared]
        ):
            shared += 1
        if not shared:
            start = max(0, len(turns) - TURNS_AT_ONCE)
        keep = set(drawn[:shared])
        await self.remove_children([w for w in self.children if w not in keep and w.id is None])
        self._earlier = list(turns[:start])
        self._count_earlier()
        new = [TurnView(turn) for turn in turns[start + shared :]]
        await self.mount_all(new if turns else [empty])
        self.anchor()

    async def show_earlier(self) -> bool:
        """Draw some more of the earlier turns; return whether there were any."""
        if not self._earlier:
            return False
        start = max(0, len(self._earlier) - TURNS_AT_ONCE)
        more, self._earlier = self._earlier[start:], self._earlier[:start]
        self._count_earlier()
        self.release_anchor()
        await self.mount_all([TurnView(turn) for turn in more], after="#earlier")
        return True

    def _count_earlier(self) -> None:
        line = self.query_one("#earlier", Static)
        line.display = bool(self._earlier)
        plural = "" if len(self._earlier) == 1 else "s"
        line.update(f"[{len(self._earlier)} earlier turn{plural}: PageUp shows them]")
