"""The conversation as the user sees it: questions, streamed Markdown answers, and notices.

Shows what it is given. Nothing here asks a model, opens a link or fetches an image.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static

from tui.clean import clean
from tui.conversation import Turn
from tui.stream import PacedStream


def _markdown_parser() -> MarkdownIt:
    # With HTML on, Textual drops every tag in silence: "<think>" or "<div>" would be lost.
    return MarkdownIt("gfm-like", {"html": False})


class TurnView(Vertical):
    """A question, its answer as it grows, and a note on how the answer ended."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(classes="turn")
        self.turn = turn
        self.written = ""
        self._answer = Markdown(parser_factory=_markdown_parser, open_links=False, classes="answer")
        self._note = Static(classes="note", markup=False)
        self._stream: PacedStream | None = None

    def compose(self) -> ComposeResult:
        """Mark the question by a sign, not by colour only."""
        with Horizontal(classes="question"):
            yield Static(">", classes="mark")
            yield Static(self.turn.question, markup=False, classes="text")
        yield self._answer
        yield self._note

    async def begin(self) -> None:
        """Start with an empty answer."""
        self.written = ""
        self._note.display = False
        await self._answer.update("")
        self._stream = PacedStream(self._answer)

    def write(self, text: str) -> None:
        """Append clean `text`; it is drawn in the background, several pieces at once if need be."""
        if self._stream is not None:
            self.written += text
            self._stream.write(text)

    async def end(self, note: str = "") -> None:
        """Draw what is left, and say under it how it ended."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.finish()
        self._note.update(f"[{note}]")
        self._note.display = bool(note)

    async def restore(self, text: str, note: str) -> None:
        """Show `text`, an earlier answer, in place of the one that was being written."""
        await self.end(note)
        self.written = text
        await self._answer.update(text)


class Notice(Static):
    """A problem, told in words: what happened, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        lines: list[str | tuple[str, str]] = [("Error: ", "bold"), clean(message)]
        if hint:
            lines += ["\n", ("Try: ", "bold"), clean(hint)]
        super().__init__(Content.assemble(*lines), classes="notice")


class Welcome(Static):
    """What an empty chat says instead of nothing."""

    KEYS = (
        ("Enter", "sends what you type below"),
        ("Ctrl+J", "starts a new line"),
        ("Esc", "stops an answer"),
        ("F1 or ?", "shows all keys"),
        ("Ctrl+Q", "quits"),
    )

    def __init__(self, model: str) -> None:
        width = max(len(key) for key, _ in self.KEYS)
        parts: list[str | tuple[str, str]] = [(f"Chat with {model}", "bold"), "\n"]
        for key, meaning in self.KEYS:
            parts += ["\n", (key.ljust(width + 2), "bold"), meaning]
        super().__init__(Content.assemble(*parts), classes="welcome")


class Transcript(VerticalScroll, can_focus=False):
    """Turns and notices, oldest first. Follows the end unless the user has scrolled up."""

    async def add(self, block: TurnView | Notice | Welcome) -> None:
        """Show `block` at the end, and follow the end again."""
        await self.query(Welcome).remove()
        await self.mount(block)
        self.anchor()
