"""The low-bandwidth mode: a Textual app that sends few frames, and of each what has changed.

`LowBandwidthApp` stands between Textual's compositor and its driver. It knows nothing of the chat
on the screen; the control sequences are `tui.bandwidth`'s.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.color import ColorSystem
from textual import constants, events, on
from textual._compositor import LayoutUpdate
from textual.app import App, ReturnType

from tui.bandwidth.cells import Drawn, Picture, size_of
from tui.bandwidth.encoding import Place, encode
from tui.terminal_events import Drained

if TYPE_CHECKING:
    from rich.console import RenderableType
    from textual.driver import Driver
    from textual.screen import Screen

    from edgekit.settings import Bandwidth


# Text that grows three times a second can be read as it comes.
PERIOD_S = 1 / 3
# For how long after a key everything is sent at once: its echo is among it.
ECHO_S = 0.1
# How much may wait for the terminal in the full mode, where each frame builds on the one before.
LARGEST_BACKLOG = 65536
REMOTE_VARIABLES = ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")
SERIAL_LINE = re.compile(r"/dev/tty(S|USB|ACM|AMA|THS|mxc)\d+")


def wanted(setting: Bandwidth) -> bool:
    """Return whether to save bytes: as `setting` says, or "auto": over SSH, mosh or a serial line.

    The environment and the name of the terminal are all that "auto" looks at.
    """
    if setting != "auto":
        return setting == "low"
    remote = any(os.environ.get(name) for name in REMOTE_VARIABLES)
    return remote or any(name.startswith("MOSH") for name in os.environ) or _on_serial_line()


def _on_serial_line() -> bool:
    try:
        return SERIAL_LINE.fullmatch(os.ttyname(sys.__stdin__.fileno())) is not None  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # no standard input, or no terminal
        return False


def _never(limit: int) -> bool:
    return False


class LowBandwidthApp(App[ReturnType]):
    """An app whose `low_bandwidth` may be set before it runs and changed while it does.

    In that mode at most three frames a second are sent, and at once after a key; there are no
    animations and no more than sixteen colours.
    """

    _low_bandwidth = False
    _wanted_picture: Picture | None = None  # as Textual has drawn it
    _shown_picture: Picture | None = None  # as the terminal shows it; None: not known
    _cursor: Place | None = None
    _next_frame: asyncio.TimerHandle | None = None
    _last_frame_s = 0.0
    _last_key_s = float("-inf")
    _missed = False  # the terminal could not take a frame of the full mode

    @property
    def low_bandwidth(self) -> bool:
        """Return whether bytes are saved."""
        return self._low_bandwidth

    @low_bandwidth.setter
    def low_bandwidth(self, low: bool) -> None:
        if low == self._low_bandwidth:
            return
        self._low_bandwidth = low
        self.animation_level = "none" if low else constants.TEXTUAL_ANIMATIONS
        self._wanted_picture = self._shown_picture = None
        if self._running:
            self._write("" if low else "\x1b[m")
            self.refresh()

    def since_key_s(self) -> float:
        """Return how many seconds ago a key or the mouse was last pressed."""
        return time.monotonic() - self._last_key_s

    def get_driver_class(self) -> type[Driver]:
        """Return a driver that never waits for the terminal, where that is possible."""
        chosen = super().get_driver_class()
        if chosen.__name__ != "LinuxDriver":
            return chosen
        from tui.driver import TerminalDriver

        return TerminalDriver

    def action_repaint(self) -> None:
        """Draw the whole screen again, as after something else has written on it."""
        self._shown_picture = None
        self.refresh()

    async def on_event(self, event: events.Event) -> None:
        """Note what makes a frame urgent, or what the terminal shows uncertain."""
        if isinstance(event, events.InputEvent) and not isinstance(event, events.MouseMove):
            self._last_key_s = time.monotonic()
        if isinstance(event, events.Resize):
            self._note_size(event.size.width, event.size.height)
        elif isinstance(event, events.AppFocus):
            self._shown_picture = None
            self._send_soon()
        await super().on_event(event)

    def _note_size(self, width: int, height: int) -> None:
        """Forget what is shown: the terminal has changed, or has come back from a stop."""
        picture = self._wanted_picture
        if picture is not None and (picture.width, picture.height) != (width, height):
            self._wanted_picture = None
        self._shown_picture = None
        self._send_soon()

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        """Take the place of Textual's own way to the terminal."""
        if not (self._low_bandwidth and self._can_write()):
            # A part of the screen is missing once a frame was left out: then all waits for the end
            # of the backlog, when the whole is drawn again.
            if self._is_behind(0 if self._missed else LARGEST_BACKLOG):
                self._missed = True
                self.post_display_hook()
                return
            if self._missed:
                self._missed = False
                self.action_repaint()
            super()._display(screen, renderable)
            return
        try:
            if not self._batch_count and isinstance(renderable, Drawn):
                self._paint(screen, renderable)
                self._send_soon()
        finally:
            self.post_display_hook()

    def _can_write(self) -> bool:
        return (
            self._running
            and not self._closed
            and not self.is_headless
            and self._driver is not None
            and not self._driver.is_inline
        )

    def _paint(self, screen: Screen[Any], update: Drawn) -> None:
        """Bring the wanted picture up to date; all of it, where a part does not fit."""
        picture = self._wanted_picture
        if picture is None or not picture.shows(update):
            update = self._whole(screen, update)
            picture = Picture(*size_of(update))
            self._wanted_picture, self._shown_picture = picture, None
        # Sixteen colours: a code of 2 bytes, not of up to 16.
        picture.paint(update, ColorSystem.STANDARD)

    def _whole(self, screen: Screen[Any], update: Drawn) -> Drawn:
        """Return an update of the whole screen, `update` itself if it is one."""
        if isinstance(update, LayoutUpdate):
            return update
        whole = screen._compositor.render_update(full=True, screen_stack=self._background_screens)
        return whole if isinstance(whole, LayoutUpdate) else update

    def _is_behind(self, limit: int) -> bool:
        """Return whether the terminal has more than `limit` bytes yet to take."""
        return self._can_write() and getattr(self._driver, "is_behind", _never)(limit)

    @on(Drained)
    def _drained(self) -> None:
        """Send what the terminal could not take before, as it is now."""
        if self._missed:
            self._missed = False
            self.action_repaint()
        self._send_soon()

    def _send_soon(self) -> None:
        """Send a frame now if a key waits for its echo, else when the next one is due."""
        if not (self._low_bandwidth and self._can_write()):
            return
        now = time.monotonic()
        wait_s = self._last_frame_s + PERIOD_S - now
        if wait_s <= 0 or self.since_key_s() < ECHO_S:
            self._send()
        elif self._next_frame is None:
            self._next_frame = asyncio.get_running_loop().call_later(wait_s, self._send)

    def _send(self) -> None:
        """Send what has changed since the last frame."""
        if self._next_frame is not None:
            self._next_frame.cancel()
            self._next_frame = None
        picture = self._wanted_picture
        if picture is None or not (self._low_bandwidth and self._can_write()):
            return
        if self._is_behind(0):  # or frames would pile up, each older than what it shows
            return
        x, y = self.screen.outer_size.clamp_offset(self.cursor_position)
        place = Place(min(y, picture.height - 1), min(x, picture.width - 1))
        text = encode(self._shown_picture, picture, self._cursor, place)
        self._shown_picture, self._cursor = picture.copy(), place
        self._last_frame_s = time.monotonic()
        self._write(text)

    def _write(self, text: str) -> None:
        if text and self._driver is not None:
            self._driver.write(text)
            self._driver.flush()
