"""Writes to the terminal in a thread, so that a slow or a stuck one holds up nobody else.

Knows bytes and a descriptor, no app. Takes all that it is given: who writes much looks at
`backlog` first.
"""

from __future__ import annotations

import os
import select
import termios
import threading
from collections.abc import Callable
from typing import TextIO


class Writer:
    """Hands text on to the terminal behind `file`; `close` it to end its thread.

    `on_drained()` is called in that thread whenever the terminal has taken everything, `on_lost()`
    once, when it is gone: from then on what is written is dropped.
    """

    def __init__(
        self, file: TextIO, on_drained: Callable[[], object], on_lost: Callable[[], object]
    ) -> None:
        # Not through `file`: at its end Python waits for a file that a thread is stuck in.
        self._descriptor = file.fileno()
        self._encoding = file.encoding
        self._on_drained = on_drained
        self._on_lost = on_lost
        self._news = threading.Condition()  # guards the four below
        self._queued: list[bytes] = []
        self._backlog = 0
        self._closing = False
        self._lost = False
        self._thread = threading.Thread(target=self._run, name="terminal-output", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Return how many bytes the terminal has not taken yet."""
        return self._backlog

    def write(self, text: str) -> None:
        """Write `text` soon, and return at once."""
        data = text.encode(self._encoding, errors="replace")
        with self._news:
            if data and not self._lost:
                self._queued.append(data)
                self._backlog += len(data)
                self._news.notify()

    def close(self, patience_s: float = 1.0) -> None:
        """End the thread when all is written, or leave it behind if the terminal is stuck."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queued or self._closing)
                data, self._queued = b"".join(self._queued), []
            if not data:
                return
            try:
                self._put(data)
            except OSError:
                self._lose()
                return
            with self._news:
                self._backlog -= len(data)
                drained = not self._backlog
            if drained:
                self._on_drained()

    def _put(self, data: bytes) -> None:
        """Write `data`, and return when the line has carried it as far as this system can know."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody else has made the terminal non-blocking
                select.select([], [self._descriptor], [])
        try:
            termios.tcdrain(self._descriptor)  # a serial line has a buffer of some seconds
        except termios.error:
            return  # no terminal, or gone, which the next write will find out

    def _lose(self) -> None:
        with self._news:
            self._lost = True
            self._queued, self._backlog = [], 0
        self._on_lost()
