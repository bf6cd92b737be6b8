"""The chat on a whole terminal: `run_chat` for the command line, and the Textual app around it.

The app knows colours, quitting and the help. The conversation is the screen's (`tui.screen`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from tui.clean import clean_line
from tui.help import HelpScreen
from tui.prompt import Prompt
from tui.screen import ChatScreen
from tui.terminal import has_few_colours
from tui.timing import Clock

if TYPE_CHECKING:
    from runtimes.base import Runtime, Sampling


def run_chat(
    open_runtime: Callable[[], Runtime],
    title: str,
    sampling: Sampling,
    system: str | None = None,
) -> None:
    """Chat on the terminal until the user quits. `open_runtime` is called in a thread.

    `title` names the model; `system` is the system prompt. An EdgekitError is shown in the chat.
    Any other exception of the runtime is too, and is raised when the screen is restored.
    """
    app = ChatApp(open_runtime, title, sampling, system)
    app.run()
    if app.bug is not None:
        raise app.bug


class ChatApp(App[None]):
    """One screen with one model. `bug` is the first exception that was no EdgekitError."""

    CSS_PATH = "chat.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "this help", key_display="F1"),
        Binding("ctrl+q", "quit", "quit", key_display="Ctrl+Q", priority=True),
    ]

    def __init__(
        self,
        open_runtime: Callable[[], Runtime],
        title: str,
        sampling: Sampling,
        system: str | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        few_colours = has_few_colours()
        super().__init__(ansi_color=few_colours or None)
        if few_colours:
            self.theme = "ansi-dark"  # the terminal's own 16 colours and background
        self.title = clean_line(title)
        self.bug: Exception | None = None
        self._chat: Callable[[], ChatScreen] = partial(
            ChatScreen, open_runtime, self.title, sampling, system, clock
        )

    def get_default_screen(self) -> ChatScreen:
        """Return the chat itself."""
        return self._chat()

    def action_help(self) -> None:
        """Show the keys."""
        if not isinstance(self.screen, HelpScreen):
            keys = [*Prompt.KEYS, *ChatScreen.BINDINGS, *ChatApp.BINDINGS]
            self.push_screen(HelpScreen(keys))
