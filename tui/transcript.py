"""The conversation as the user sees it: questions, streamed Markdown answers, and notices.

Shows what it is given. Nothing here asks a model, opens a link or fetches an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui.clean import clean
from tui.conversation import Turn
from tui.turn_view import TurnView
from tui.viewport import Viewport

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

    def __init__(self, model: str, protection: str = "", earlier_chats: int = 0) -> None:
        width = max(len(key) for key, _ in self.KEYS)
        parts: list[str | tuple[str, str]] = [(f"Chat with {model}", "bold"), "\n"]
        for key, meaning in self.KEYS:
            if key == "Ctrl+O":
                if not earlier_chats:
                    continue
                plural = "" if earlier_chats == 1 else "s"
                meaning = f"opens an earlier chat ({earlier_chats} chat{plural})"
            parts += ["\n", (key.ljust(width + 2), "bold"), meaning]
        if protection:
            parts += ["\n\n", protection]
        super().__init__(Content.assemble(*parts), classes="welcome")


class Transcript(Viewport, can_focus=False):
    """Turns and notices, oldest first. Follows the end unless the user has scrolled up."""

    def __init__(self) -> None:
        super().__init__()
        self._earlier: list[Turn] = []
        self._later: list[Turn] = []

    def compose(self) -> ComposeResult:
        """Keep a line at the top and at the end for what is not drawn yet."""
        yield Static(id="earlier", classes="not-drawn", markup=False)
        yield Static(id="later", classes="not-drawn", markup=False)

    def on_mount(self) -> None:
        """Hide the lines until there is something to say."""
        self._count()

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
        await self.mount(block, before="#later")
        self.anchor()

    async def show(self, turns: Sequence[Turn], empty: Widget, at: int | None = None) -> None:
        """Show these turns and nothing else, or `empty` if there are none.

        What is drawn already and stays the same is not drawn again. Shows the end, or what is
        around the turn with the index `at`.
        """
        if at is not None or self._later:
            await self._show_part(turns, empty, at)
            return
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
        self._count()
        new = [TurnView(turn) for turn in turns[start + shared :]]
        await self.mount_all(new if turns else [empty], before="#later")
        self.anchor()

    async def _show_part(self, turns: Sequence[Turn], empty: Widget, at: int | None) -> None:
        """Draw the turns around the index `at`, or the last ones; forget what was drawn before."""
        start = max(0, len(turns) - TURNS_AT_ONCE) if at is None else max(0, at - 2)
        end = start + TURNS_AT_ONCE
        await self.remove_children([w for w in self.children if w.id is None])
        self._earlier, self._later = list(turns[:start]), list(turns[end:])
        self._count()
        new = [TurnView(turn) for turn in turns[start:end]]
        await self.mount_all(new if turns else [empty], before="#later")
        self.anchor(at is None)

    async def show_earlier(self) -> bool:
        """Draw some more of the earlier turns; return whether there were any."""
        if not self._earlier:
            return False
        start = max(0, len(self._earlier) - TURNS_AT_ONCE)
        more, self._earlier = self._earlier[start:], self._earlier[:start]
        self._count()
        self.release_anchor()
        await self.mount_all([TurnView(turn) for turn in more], after="#earlier")
        return True

    @property
    def is_at_the_end(self) -> bool:
        """Return whether the end of the last turn is in sight."""
        return self.is_vertical_scroll_end and not self._later

    @property
    def has_later(self) -> bool:
        """Return whether there are turns after the last one that is drawn."""
        return bool(self._later)

    async def show_later(self) -> bool:
        """Draw some more of the later turns; return whether there were any."""
        if not self._later:
            return False
        more, self._later = self._later[:TURNS_AT_ONCE], self._later[TURNS_AT_ONCE:]
        self._count()
        await self.mount_all([TurnView(turn) for turn in more], before="#later")
        return True

    def _count(self) -> None:
        for name, key, turns in (
            ("earlier", "PageUp", self._earlier),
            ("later", "PageDown", self._later),
        ):
            line = self.query_one(f"#{name}", Static)
            line.display = bool(turns)
            plural = "" if len(turns) == 1 else "s"
            line.update(f"[{len(turns)} {name} turn{plural}: {key} shows them]")
