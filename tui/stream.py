"""Appends a growing text to a Markdown widget, no more often than the interface can afford.

Used in place of Textual's MarkdownStream, which appends again as soon as it can, so that a fast
model and a long answer leave no time for keys, and whose `stop` raises CancelledError when it
comes before the first piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from textual.widgets import Markdown

from tui.low_bandwidth import PERIOD_S, LowBandwidthApp

# Fifteen updates a second read as continuous.
LEAST_PERIOD_S = 1 / 15
# How much of the interface's time the drawing may take. Textual lays out every block of the
# conversation again for each update, so its cost grows with the length of the chat.
LARGEST_SHARE = 1 / 3
# Who types has the next key ready 80 ms after the last one at the earliest, and an append takes 20
# to 60 ms: begun when a key has just been drawn, it is done before the next one. So while keys
# come, an append waits for the moment after one, but no longer than LONGEST_PAUSE_S.
TYPING_S = 0.5
KEY_DRAWN_S = 0.025
MOMENT_S = 0.02
LONGEST_PAUSE_S = 0.3


class PacedStream:
    """Call `write` as often as you like, then `finish` once. For the interface's thread."""

    def __init__(self, markdown: Markdown) -> None:
        self._markdown = markdown
        self._pending = ""
        self._news = asyncio.Event()
        self._finishing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def write(self, text: str) -> None:
        """Append `text` soon."""
        self._pending += text
        self._news.set()

    async def finish(self) -> None:
        """Append what is left, and return when it is there."""
        self._finishing.set()
        self._news.set()
        await self._task

    async def _run(self) -> None:
        while not self._finishing.is_set() or self._pending:
            await self._news.wait()
            self._news.clear()
            await self._let_keys_pass()
            text, self._pending = self._pending, ""
            if text:
                await self._append(text)

    async def _append(self, text: str) -> None:
        """Append `text`, and rest until that took no more than its share of the time."""
        start_s, start_cpu_s = time.perf_counter(), time.thread_time()
        await self._markdown.append(text)
        await self._rest(self._least_period_s())  # long enough for the layout and the drawing
        used_s = time.thread_time() - start_cpu_s
        await self._rest(used_s / LARGEST_SHARE - (time.perf_counter() - start_s))

    def _least_period_s(self) -> float:
        """Return the time between two appends, which is at least that between two frames."""
        app = self._markdown.app
        saves = isinstance(app, LowBandwidthApp) and app.low_bandwidth
        return PERIOD_S if saves else LEAST_PERIOD_S

    async def _let_keys_pass(self) -> None:
        """While somebody types, rest until a key has just been drawn."""
        app = self._markdown.app
        end_s = time.monotonic() + LONGEST_PAUSE_S
        while isinstance(app, LowBandwidthApp) and not self._finishing.is_set():
            since_s, left_s = app.since_key_s(), end_s - time.monotonic()
            is_the_moment = KEY_DRAWN_S <= since_s < KEY_DRAWN_S + MOMENT_S
            if is_the_moment or since_s > TYPING_S or left_s <= 0:
                return
            await self._rest(min(max(KEY_DRAWN_S - since_s, MOMENT_S / 2), left_s))

    async def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finishing.wait(), seconds)
