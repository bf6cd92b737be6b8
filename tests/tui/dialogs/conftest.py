"""An app with nothing but a dialog in it, and stores to show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.screen import Screen
from textual.widgets import Static

import tui
from tui.conversation import Answer, Chat, Question
from tui.store.chats import ChatStore

FOLDER = Path(tui.__file__).parent
NOW = 1_800_000_000.0
MODEL = "SmolLM2-135M-Instruct-gguf-q4_k_m"
TALKS = (
    ("A \x1b[31mred\x1b[0m \u202etitle [bold]", "What is red?", "A colour.\x07"),
    ("Tea", "How long does tea take?", "Three minutes."),
    ("Eggs", "How long do eggs take?", "Seven minutes, then [cool] them in cold water."),
)


class DialogApp(App[None]):
    """Opens `dialog` at once; `results` holds what it was dismissed with."""

    CSS_PATH = [FOLDER / "chat.tcss", FOLDER / "dialogs.tcss"]  # noqa: RUF012 - Textual's own form
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, dialog: Screen[Any], *, few_colours: bool = False) -> None:
        super().__init__(ansi_color=few_colours or None)
        if few_colours:
            self.theme = "ansi-dark"
        self.dialog = dialog
        self.results: list[Any] = []

    def compose(self) -> ComposeResult:
        yield Static("the chat")

    def on_mount(self) -> None:
        self.push_screen(self.dialog, self.results.append)

    def text(self) -> str:
        """Return every character on the screen, row by row."""
        strips = self.screen._compositor.render_strips(self.screen.size)
        return "\n".join(strip.text for strip in strips)


class Typist:
    """Presses keys. Letters in a row come in a burst, as from a fast typist; others one by one."""

    def __init__(self, app: DialogApp, pilot: Any) -> None:
        self._app, self._pilot = app, pilot
        self.pause = pilot.pause

    async def press(self, *keys: str) -> None:
        for key, following in pairwise([*keys, ""]):
            if len(key) == 1 == len(following) and key.isalnum():
                self._app.post_message(events.Key(key, key))
            else:
                await self._pilot.press(key)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DialogApp]:
    """Return the app's class, in a terminal with all colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return DialogApp


@pytest.fixture
def opened(show: Callable[..., DialogApp], until: Callable[..., Any]) -> Callable[..., Any]:
    """Return a context manager: a dialog on a terminal of 80 by 24, and the pilot's keys."""

    @asynccontextmanager
    async def run(dialog: Screen[Any]) -> AsyncIterator[tuple[DialogApp, Any, Any]]:
        app = show(dialog)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.screen is dialog)

            async def shows(text: str) -> None:
                await until(pilot, lambda: text in app.text())

            yield app, Typist(app, pilot), shows

    return run


@pytest.fixture
def store() -> Iterator[ChatStore]:
    """Give a store in memory with three chats: Eggs is the newest, then Tea, then a hostile one."""
    store = ChatStore.open(None)
    for number, (title, question, answer) in enumerate(TALKS):
        at = NOW - 4000.0 * (len(TALKS) - number)
        chat = Chat(f"chat{number}", title, made_at=at, changed_at=at, model=MODEL)
        asked = Question(f"q{number}", None, question, at=at)
        answered = Answer(f"a{number}", f"q{number}", answer, "stop", at=at)
        store.save_all(chat, [asked, answered])
    yield store
    store.close()


@pytest.fixture
def at_noon() -> Callable[[], float]:
    """Return a clock that stands still."""
    return lambda: NOW
