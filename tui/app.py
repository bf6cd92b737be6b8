"""The chat on a whole terminal: `run_chat` for the command line, and the Textual app around it.

The app knows colours, quitting and the help. The conversation is the screen's (`tui.screen`).
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType

from tui.clean import clean_line
from tui.commands import COMMANDS
from tui.help import HelpScreen
from tui.low_bandwidth import LowBandwidthApp, wanted
from tui.prompt import Prompt
from tui.screen import ChatScreen
from tui.terminal import has_few_colours
from tui.terminal_events import Ended
from tui.timing import Clock
from tui.turn_view import TurnView

if TYPE_CHECKING:
    from edgekit.settings import Bandwidth
    from tui.setup import ChatSetup


def run_chat(setup: ChatSetup) -> None:
    """Chat on the terminal until the user quits.

    An EdgekitError is shown in the chat. Any other exception is too, and is raised when the
    terminal is restored. Raises SystemExit after a signal, or when the terminal has gone.
    """
    # Full garbage collections, 50 ms each, become rare: a key would wait for them.
    gc.set_threshold(700, 10, 200)
    app = ChatApp(setup)
    app.run()
    if app.bug is not None:
        raise app.bug
    if app.return_code:
        raise SystemExit(app.return_code)


class ChatApp(LowBandwidthApp[None]):
    """One screen with one model. `bug` is the first exception that was no EdgekitError."""

    CSS_PATH: ClassVar = ["chat.tcss", "dialogs.tcss"]
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "this help (also ?)", key_display="F1"),
        Binding("ctrl+l", "repaint", show=False, priority=True),
        Binding("ctrl+q", "quit", "quit", key_display="Ctrl+Q", priority=True),
    ]

    def __init__(self, setup: ChatSetup, clock: Clock = time.perf_counter) -> None:
        low = wanted(setup.settings.bandwidth)
        few_colours = low or has_few_colours()  # in the terminal's own colours, blanks cost nothing
        super().__init__(ansi_color=few_colours or None)
        self._setup = setup
        self._clock = clock
        self.title = clean_line(setup.model)
        self.bug: Exception | None = None
        if few_colours:
            self.theme = "ansi-dark"  # the terminal's own 16 colours and background
        elif setup.settings.theme in self.available_themes:
            self.theme = setup.settings.theme
        self.low_bandwidth = low

    def get_default_screen(self) -> ChatScreen:
        """Return the chat itself."""
        return ChatScreen(self._setup, self._clock)

    def use_bandwidth(self, setting: Bandwidth) -> None:
        """Send few bytes to the terminal, or as many as look best; "auto" decides by itself."""
        low = wanted(setting)
        if low:
            self.theme, self.ansi_color = "ansi-dark", True
        self.low_bandwidth = low

    def action_help(self) -> None:
        """Show the keys."""
        if not isinstance(self.screen, HelpScreen):
            keys = [*Prompt.KEYS, *ChatScreen.BINDINGS, *ChatApp.BINDINGS]
            self.push_screen(HelpScreen(keys, TurnView.BINDINGS, COMMANDS))

    @on(Ended)
    async def _ended(self, event: Ended) -> None:
        """Save and leave at once; the chat stays the open one, as after a crash."""
        if self._exit:
            return
        chat = self.screen_stack[0] if self.screen_stack else None
        if isinstance(chat, ChatScreen) and chat.is_mounted:
            if chat.asking.active is not None and chat.asking.active.written:
                await chat.asking.finish("interrupted", chat.status.status.timing)
            await chat.save(chat.recorder.save_draft, chat.prompt.text)
        self.exit(return_code=event.exit_code)

    def _fatal_error(self) -> None:
        """End with a traceback, as Textual does, but without the values of variables in it.

        They hold what the user typed, and what stands in a terminal may end in a log.
        """
        from rich.segment import Segments
        from rich.traceback import Traceback

        self.bell()
        lines = self.console.render(Traceback(show_locals=False, width=None), self.console.options)
        self._exit_renderables.append(Segments(lines))
        self._close_messages_no_wait()

    async def action_quit(self) -> None:
        """Save and leave."""
        chat = self.screen_stack[0]
        if isinstance(chat, ChatScreen):
            await chat.leave()
        self.exit()
