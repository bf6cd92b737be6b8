"""The list of all chats: search them in full text, open, rename and delete them.

The store is only asked in threads, one question at a time, so that typing never waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input

from edgekit.errors import EdgekitError
from tui.clean import clean_line
from tui.dialogs.ask import AskScreen, ConfirmScreen
from tui.dialogs.layout import ago, marked, shorten, sides
from tui.dialogs.line_input import MOVES, LineInput
from tui.dialogs.lists import ListDialog
from tui.dialogs.rows import Rows
from tui.naming import model_name

if TYPE_CHECKING:
    from tui.store.chats import ChatStore

DEBOUNCE_S = 0.08
MOST_HITS = 200
MODEL_WIDTH = 24


@dataclass(frozen=True, slots=True)
class ChatPicked:
    """What the user chose: to open a chat, at `entry_id` if it was found there, or a new one."""

    kind: Literal["open", "new"]
    chat_id: str | None = None
    entry_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """A chat or a place in one. `excerpt` is None in the list of all chats."""

    chat_id: str
    title: str
    at: float
    model: str = ""
    entry_id: str | None = None
    excerpt: str | None = None


class ChatListScreen(ListDialog[ChatPicked]):
    """Lists the chats of `store`, or where `words` occur in them. `current` is the open chat.

    Chats may have been renamed or deleted, the open one too, whatever the result is. That is done
    by `rename(chat_id, title)` and `delete(chat_id)`, by default in the store itself.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "new", "a new chat"),
        Binding("f2", "rename", "rename"),
        Binding("ctrl+d,delete", "delete", "delete"),
    ]
    keys = (
        ("Enter", "open"),
        ("Ctrl+N", "new"),
        ("F2", "rename"),
        ("Delete", "delete"),
        ("Esc", "close"),
    )

    def __init__(
        self,
        store: ChatStore,
        current: str | None = None,
        words: str = "",
        now: Callable[[], float] = time.time,
        *,
        rename: Callable[[str, str], None] | None = None,
        delete: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__("Chats")
        self._rename = rename or self._rename_stored
        self._delete = delete or store.delete_chat
        self.add_class("tall")
        self._store, self._current, self._now = store, current, now
        self._wanted, self._shown = words, ""
        self._lines: list[_Line] = []
        self._stale = True
        self._reading = False
        self._open_when_read = False
        self._delay: Timer | None = None
        self._trouble = ""  # of the last change, until something is typed

    def body(self) -> ComposeResult:
        """Show the line that searches, and the chats below it."""
        keys = {**MOVES, "delete": "delete", "ctrl+d": "delete"}
        yield LineInput(self._wanted, "Type to search titles, questions and answers", keys)
        yield Rows("reading")

    def on_mount(self) -> None:
        """Read the chats while the box is drawn."""
        self._read()

    # Reading and searching

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value.strip() == self._wanted.strip():
            return
        self._wanted, self._stale, self._trouble = event.value, True, ""
        if self._delay is not None:
            self._delay.stop()
        self._delay = self.set_timer(DEBOUNCE_S, self._read)

    def _read(self) -> None:
        self._stale = True
        if not self._reading:  # else the reader sees that more is wanted when it is done
            self._reading = True
            self.run_worker(self._keep_reading(), group="reading")

    async def _keep_reading(self) -> None:
        """Ask the store until what is shown is what is wanted."""
        try:
            while self._stale:
                self._stale, words = False, self._wanted
                lines = await self.in_thread(self._find, words.strip())
                if not self._stale:
                    self._show(lines, words)
        except EdgekitError as error:
            self._stale, self._lines = False, []
            self.rows.empty = clean_line(error.message)
            self.rows.show(0, self._row)
        finally:
            self._reading = False
        if self._open_when_read:
            await self.action_choose()

    def _find(self, words: str) -> list[_Line]:
        if not words:
            return [_Line(c.id, c.title, c.changed_at, c.model) for c in self._store.chats()]
        return [
            _Line(hit.chat_id, hit.title, hit.at, "", hit.entry_id, hit.excerpt)
            for hit in self._store.search(words, MOST_HITS)
        ]

    def _show(self, lines: list[_Line], words: str) -> None:
        same = words.strip() == self._shown.strip()
        chosen = self.rows.chosen if same else 0
        self._lines, self._shown = lines, words
        searched = bool(words.strip())
        self.rows.empty = "nothing found" if searched else "no chats yet"
        self.rows.show(len(lines), self._row, lines=2 if searched else 1, chosen=chosen)
        count = f"{len(lines)} chat{'s' * (len(lines) != 1)}"
        if searched:
            count = f"{'the newest ' if len(lines) == MOST_HITS else ''}{len(lines)} found"
        self.remark(self._trouble or count)

    def _row(self, index: int, width: int) -> list[Content]:
        line = self._lines[index]
        when = ago(line.at, self._now()).rjust(11)
        column = min(MODEL_WIDTH, width // 4)
        model = shorten(model_name(line.model), column) if line.model else ""
        here = " (open)" if line.chat_id == self._current else ""
        right = f"{model.ljust(column)} {when}" if model else when
        room = width - len(right) - len(here) - 2
        title = Content(_title(line)).stylize("bold").truncate(room, ellipsis=True)
        first = sides(title + here, right, width)
        if line.excerpt is None:
            return [first]
        return [first, Content("  ") + marked(clean_line(line.excerpt), self._shown, width - 2)]

    # Keys

    def _chosen(self) -> _Line | None:
        return self._lines[self.rows.chosen] if self._lines else None

    async def action_choose(self) -> None:
        """Open the chosen chat; if the search is still going on, the first that it finds."""
        self._open_when_read = self._stale or self._reading
        if self._open_when_read:
            self._read()
        elif (line := self._chosen()) is not None:
            self.dismiss(ChatPicked("open", line.chat_id, line.entry_id))

    def action_new(self) -> None:
        """Begin a new chat."""
        self.dismiss(ChatPicked("new"))

    @work
    async def action_rename(self) -> None:
        """Give the chosen chat another title."""
        if (line := self._chosen()) is None:
            return
        title = await self.app.push_screen_wait(AskScreen("Title of this chat", line.title))
        if title:
            await self._change(self._rename, line.chat_id, title)

    @work
    async def action_delete(self) -> None:
        """Delete the chosen chat, after asking."""
        if (line := self._chosen()) is None:
            return
        confirm = ConfirmScreen(
            f"Delete “{_title(line)}” for good?",
            detail="All its questions, answers and versions go with it.",
        )
        if await self.app.push_screen_wait(confirm):
            await self._change(self._delete, line.chat_id)

    async def _change(self, change: Callable[..., None], *arguments: str) -> None:
        try:
            await self.in_thread(change, *arguments)
        except EdgekitError as error:  # the change may have been made all the same
            self._trouble = error.message
        self._read()

    def _rename_stored(self, chat_id: str, title: str) -> None:
        """Change the title of the chat as it is stored now: an answer may have ended meanwhile."""
        for chat in self._store.chats():
            if chat.id == chat_id:
                self._store.save_chat(replace(chat, title=title))


def _title(line: _Line) -> str:
    return clean_line(line.title) or "(no title)"
