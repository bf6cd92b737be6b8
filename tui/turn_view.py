"""One turn on the screen: a question, its answer as it grows, and a note on how it ended.

A turn can be focused; its keys leave as messages. It knows nothing of other versions of itself
but how many there are.
"""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Key
from textual.widgets import Static

from tui.clean import clean, clean_line
from tui.code_block import AnswerMarkdown
from tui.conversation import Question, Turn
from tui.messages import TurnAction, TurnKey
from tui.stream import PacedStream
from tui.viewport import Block

MOST_DRAWN_LINES = 40
MOST_DRAWN_CHARACTERS = 4000


def markdown_parser() -> MarkdownIt:
    """Return the parser of answers: GitHub's Markdown, but HTML is text.

    With HTML on, Textual drops every tag in silence: "<think>" or "<div>" would be lost.
    """
    return MarkdownIt("gfm-like", {"html": False})


class TurnView(Block, can_focus=True):
    """A question, its answer as it grows, and a note on how the answer ended."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "key('edit')", "reword it", key_display="E"),
        Binding("r", "key('retry')", "answer again", key_display="R"),
        Binding("left", "key('older')", "earlier version", key_display="Left"),
        Binding("right", "key('newer')", "later version", key_display="Right"),
        Binding("c", "key('copy')", "copy; 1-9: code block", key_display="C"),
        Binding("up,k", "key('up')", show=False),
        Binding("down,j", "key('down')", show=False),
        Binding("escape,enter,tab", "key('leave')", show=False),
    ]

    def __init__(self, turn: Turn) -> None:
        super().__init__(classes="turn")
        self.turn = turn
        self.written = turn.answer.text if turn.answer else ""
        self._versions = ""
        self._answer = AnswerMarkdown(
            clean(self.written),
            parser_factory=markdown_parser,
            open_links=False,
            classes="answer",
        )
        self._note = Static(classes="note", markup=False)
        self._stream: PacedStream | None = None

    def compose(self) -> ComposeResult:
        """Mark the question by a sign, not by colour only."""
        with Horizontal(classes="question"):
            yield Static(">", classes="mark")
            yield Static(beginning(clean(self.turn.question.text)), markup=False, classes="text")
        if self.turn.question.attachments:
            yield Static(attached(self.turn.question), markup=False, classes="attached")
        yield self._answer
        yield self._note

    def on_mount(self) -> None:
        """Say how the answer ended."""
        self._tell()

    def shows(self, turn: Turn) -> bool:
        """Return whether `turn` is what is drawn here."""
        return self._stream is None and self.turn == turn

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

    async def end(self, turn: Turn) -> None:
        """Draw what is left; from now on this is the view of `turn`, which is finished."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.finish()
        self.turn = turn
        text = turn.answer.text if turn.answer else ""
        if text != self.written:
            self.written = text
            await self._answer.update(clean(text))
        self._tell()

    def tell_versions(self, number: int, count: int) -> None:
        """Say under the answer which version of the turn this is, if there are several."""
        self._versions = f"version {number} of {count}" if count > 1 else ""
        self._tell()

    def _tell(self) -> None:
        answer = self.turn.answer
        parts = [self._versions, answer.note() if answer else ""]
        note = " · ".join(part for part in parts if part)
        self._note.update(f"[{note}]")
        self._note.display = bool(note) and self._stream is None

    def action_key(self, action: TurnAction) -> None:
        """Tell the screen."""
        self.post_message(TurnKey(self.turn.question, action))

    def on_key(self, event: Key) -> None:
        """Copy a code block by its digit."""
        if event.character and event.character in "123456789":
            event.stop()
            self.post_message(TurnKey(self.turn.question, "copy", int(event.character)))


def beginning(question: str) -> str:
    """Return as much of a question as is drawn: a pasted book takes seconds to lay out."""
    text = question[:MOST_DRAWN_CHARACTERS]
    text = "\n".join(text.split("\n")[:MOST_DRAWN_LINES])
    left_out = len(question) - len(text)
    return f"{text}\n[and {left_out:,} more characters; E shows all]" if left_out else text


def attached(question: Question) -> str:
    """Return a line that names the files that went along with a question."""
    files = [f"{clean_line(a.name)} ({a.tokens} tokens)" for a in question.attachments]
    return f"[with {', '.join(files)}]"
