"""The prompt: a text area where Enter sends, a paste keeps its lines, and Up finds old questions.

Knows nothing of models: what is sent leaves as a message.
"""

from __future__ import annotations

from itertools import takewhile
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static, TextArea

from tui.clean import clean_paste
from tui.commands import Command, completions
from tui.history import History
from tui.messages import QuestionSubmitted
from tui.timing import Clock

REMARK_S = 4.0
REMARK_S_PER_CHARACTER = 0.06  # a slow reader's pace


class Prompt(TextArea):
    """Posts QuestionSubmitted and is empty again at once; `give_back` undoes that."""

    # Not BINDINGS: those run in the app, out of step with the letters that are still on their
    # way to this widget, so a fast "hello", Enter would send "hel".
    KEYS: ClassVar[list[Binding]] = [
        Binding("enter", "submit", "send", key_display="Enter"),
        Binding(
            "ctrl+j,alt+enter,shift+enter",
            "newline",
            "new line",
            key_display="Ctrl+J",
        ),
        Binding("up", "cursor_up", "earlier question", key_display="Up"),
        Binding("down", "cursor_down", "later question", show=False),
        Binding("tab", "complete", "complete a command", key_display="Tab"),
        Binding("question_mark", "app.help", show=False),
    ]
    _ACTIONS: ClassVar[dict[str, str]] = {
        key: binding.action for binding in KEYS for key in binding.key.split(",")
    }

    def __init__(self) -> None:
        super().__init__(
            compact=True,
            tab_behavior="focus",
            placeholder="Type a message",
            highlight_cursor_line=False,
        )
        self.asked = History()
        self.cursor_blink = False  # a still screen sends nothing over a slow line

    def give_back(self, text: str) -> None:
        """Put `text` back, before whatever has been typed since."""
        self._show(f"{text}\n\n{self.text}" if self.text.strip() else text)

    def _show(self, text: str) -> None:
        """Replace all text, with the cursor at the end. Ctrl+Z brings the old text back."""
        self.replace(text, self.document.start, self.document.end, maintain_selection_offset=False)
        self.move_cursor(self.document.end)

    def drop_command(self) -> None:
        """Forget a command that is being typed; Ctrl+Z brings it back."""
        if self.text.startswith("/") and "\n" not in self.text:
            self._show("")

    async def on_key(self, event: events.Key) -> None:
        """Handle the keys of `KEYS` before the text area sees them."""
        action = self._ACTIONS.get(event.key)
        if action is None or (event.key == "question_mark" and self.text):
            return
        event.stop()
        event.prevent_default()
        await self.run_action(action)

    def on_paste(self, event: events.Paste) -> None:
        """Clean a paste before the text area inserts it."""
        event.text = clean_paste(event.text)

    def action_submit(self) -> None:
        """Send what is typed, unless it is blank."""
        text = self.text.strip()
        if text:
            self.asked.add(text)
            self._show("")
            self.post_message(QuestionSubmitted(text))

    def action_complete(self) -> None:
        """Complete the name of a command, as far as it is certain."""
        names = [command.name for command in completions(self.text)]
        if len(names) == 1:
            self._show(f"/{names[0]} ")
        elif names:
            same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
            self._show("/" + "".join(letters[0] for letters in same))

    def action_newline(self) -> None:
        """Break the line at the cursor."""
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up, or to the question before this one from the first line."""
        if select or self._cursor_row() > 0:
            super().action_cursor_up(select)
        elif (text := self.asked.older(self.text)) is not None:
            self._show(text)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down, or to the question after this one from the last line."""
        if select or self._cursor_row() < self.wrapped_document.height - 1:
            super().action_cursor_down(select)
        elif (text := self.asked.newer()) is not None:
            self._show(text)

    def _cursor_row(self) -> int:
        """Return the row of the cursor, counted as wrapped on the screen."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y


class Completions(Static):
    """The commands that begin with what is typed, above the prompt; hidden for a question."""

    MOST = 6

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.display = False

    def offer(self, typed: str) -> None:
        """Show what `typed` may become."""
        commands = completions(typed)
        if not commands and not self.display:
            return  # an update would lay out the whole screen again, for each key
        self.display = bool(commands)
        rows = [_offer(command) for command in commands[: self.MOST]]
        if len(commands) > self.MOST:
            rows.append(Content(f"  ... {len(commands) - self.MOST} more: type on, or F1"))
        self.update(Content("\n").join(rows))


def _offer(command: Command) -> Content:
    usage = f"/{command.name} {command.arguments}".ljust(26)
    return Content.assemble((usage, "bold"), f"  {command.summary}")


class BarLine(Widget):
    """The line above the prompt: the chat's name to the left, what to know now to the right."""

    def __init__(self) -> None:
        super().__init__()
        self.left = ""
        self.right = ""

    def room(self) -> int:
        """Return how many cells a text to the right may have."""
        return self.content_size.width - 4

    def show(self, *, left: str | None = None, right: str | None = None) -> None:
        """Change what it says; it is drawn again only if that is new."""
        new = self.left if left is None else left, self.right if right is None else right
        if new != (self.left, self.right):
            self.left, self.right = new
            self.refresh()

    def render(self) -> Content:
        """Cut the left text before the right one."""
        width, right = self.content_size.width, self.right
        end = Content(f" {right} ").truncate(max(0, width - 2), ellipsis=True) if right else ""
        end = Content(end) if isinstance(end, str) else end
        room = width - end.cell_length - 5
        start = Content("")
        if self.left and room > 8:
            start = Content(f" {Content(self.left).truncate(room, ellipsis=True)} ").stylize("bold")
        line = "─" * max(0, width - 2 - start.cell_length - end.cell_length)
        rule = "$primary"
        return Content.assemble(("─", rule), start, (line, rule), end, ("─", rule))


class PromptBar(Vertical):
    """The prompt under a line that tells the user one short thing at a time.

    What is too long for that line stands above it, on as many lines as it takes.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._remark_until = clock()

    def compose(self) -> ComposeResult:
        """Mark the prompt by a sign."""
        yield Static(id="remark", markup=False)
        yield BarLine()
        with Horizontal():
            yield Static(">", classes="mark")
            yield Prompt()

    def on_mount(self) -> None:
        """Begin with nothing to say."""
        self._long("")

    def entitle(self, text: str) -> None:
        """Name what is open."""
        self.query_one(BarLine).show(left=text)

    def remark(self, text: str) -> None:
        """Say `text` for as long as it takes to read it."""
        seconds = max(REMARK_S, REMARK_S_PER_CHARACTER * len(text))
        self._remark_until = self._clock() + seconds
        line = self.query_one(BarLine)
        fits = cell_len(text) <= line.room()
        line.show(right=text if fits else "")
        self._long("" if fits else text)

    def hush(self) -> None:
        """Let the next advice take the place of a remark."""
        self._remark_until = self._clock()

    def advise(self, text: str) -> None:
        """Say `text`, the key to know now, unless a remark is still fresh."""
        if self._clock() >= self._remark_until:
            self.query_one(BarLine).show(right=text)
            self._long("")

    def _long(self, text: str) -> None:
        line = self.query_one("#remark", Static)
        if bool(text) != line.display or text:
            line.update(text)
            line.display = bool(text)
