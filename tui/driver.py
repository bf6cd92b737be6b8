"""The terminal's driver: one that may be slow, may be stuck, and may go away without a word.

Textual's own spins for ever when the terminal has gone, and stops the whole app when the terminal
takes no output. Imported on POSIX systems only: it needs termios. Knows no chat.
"""

from __future__ import annotations

import contextlib
import select
import signal
import threading
from typing import Any

from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from tui.terminal_events import Drained, Ended
from tui.writer import Writer

# 128 and the number of the signal: what a shell reports for a program that the signal has ended.
ENDING_SIGNALS = (signal.SIGHUP, signal.SIGTERM)


class TerminalDriver(LinuxDriver):
    """Never waits for the terminal, and tells the app when it has gone.

    Over a slow line, where the app's `low_bandwidth` is true when the driver starts, it asks for
    the mouse's clicks, drags and wheel, but not for each cell that it passes.
    """

    CLICKS = ("1000", "1002", "1006")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._output: Writer | None = None
        self._watch: threading.Thread | None = None
        self._awaited = False

    def is_behind(self, limit: int = 0) -> bool:
        """Return whether the terminal has not taken more than `limit` bytes yet.

        If so, the app gets Drained when it has taken them all.
        """
        self._awaited = True  # before the look: the other thread does both the other way round
        self._awaited = self._output is not None and self._output.backlog > limit
        return self._awaited

    def write(self, data: str) -> None:
        """Write `data` soon. Takes the place of Textual's, which waits when 30 are queued."""
        if self._output is not None:
            self._output.write(data)

    def start_application_mode(self) -> None:
        """Start, and listen for signals and for the terminal's end."""
        if self._file is not None:
            self._output = Writer(self._file, self._drained, self._hung_up)
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._loop.add_signal_handler(number, self._end, 128 + number)
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if self._watch is None:
            self._watch = threading.Thread(target=self._wait_for_end, name="hang-up", daemon=True)
            self._watch.start()

    def close(self) -> None:
        """Write the rest, if the terminal still takes it."""
        if self._output is not None:
            self._output.close()
            self._output = None
        super().close()  # Textual's writer has had nothing to do

    def _wait_for_end(self) -> None:
        """Wait until the terminal hangs up. Runs in a thread, and costs nothing until then."""
        poll = select.poll()
        poll.register(self.fileno, 0)  # 0: only what is always reported, the end among it
        if any(seen & select.POLLHUP for _, seen in poll.poll()):
            self._hung_up()

    def _hung_up(self) -> None:
        self.exit_event.set()  # or Textual's input thread reads the end over and over
        self._end(128 + signal.SIGHUP)

    def _end(self, exit_code: int) -> None:
        self._tell(Ended(exit_code))

    def _drained(self) -> None:
        if self._awaited:
            self._awaited = False
            self._tell(Drained())

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # from asyncio, if the app has just gone
            self.send_message(message)

    def _enable_mouse_support(self) -> None:
        if not getattr(self._app, "low_bandwidth", False):
            super()._enable_mouse_support()
        elif self._mouse:
            self.write("".join(f"\x1b[?{mode}h" for mode in self.CLICKS))

    def _disable_mouse_support(self) -> None:
        super()._disable_mouse_support()
        if self._mouse:
            self.write("\x1b[?1002l")
