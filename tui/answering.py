"""One answer, written by a runtime in a thread of its own and reported by two callbacks.

Shared by the screen and the line mode. It cleans the text and times it; it does not show it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from tui.clean import clean
from tui.conversation import Ending
from tui.timing import Clock, Stopwatch, Timing

if TYPE_CHECKING:
    from runtimes.base import Chunk, Finish, Message, Runtime, Sampling


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended. `error` is set if the runtime failed, and `ending` is None then."""

    timing: Timing
    ending: Ending | None = None
    error: Exception | None = None


class Answering:
    """Asks `runtime` once. `start` it; `stop` may be called from any thread, at any time.

    `messages` may be a function, called in the thread that asks: to count tokens takes time.

    `on_text(text, timing)` gets what was written, at once when it is the first for
    `report_every_s` seconds, else joined with what came meanwhile. `on_end(outcome)` is called
    once, last. Both are called from one thread of this object.
    """

    def __init__(
        self,
        runtime: Runtime,
        messages: Sequence[Message] | Callable[[], Sequence[Message]],
        sampling: Sampling,
        *,
        on_text: Callable[[str, Timing], object],
        on_end: Callable[[Outcome], object],
        clock: Clock,
        report_every_s: float = 0.0,
    ) -> None:
        self._runtime = runtime
        self._messages = messages
        self._sampling = sampling
        self._on_text = on_text
        self._on_end = on_end
        self._report_every_s = report_every_s
        self._stopwatch = Stopwatch(clock)
        self._chunks: Iterator[Chunk] | None = None
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._news = threading.Condition()  # guards the three below
        self._unreported = ""
        self._timing = Timing()
        self._outcome: Outcome | None = None

    def start(self) -> None:
        """Begin, in two daemon threads: quitting never waits for a model to be polite."""
        threading.Thread(target=self._run, name="answering", daemon=True).start()
        threading.Thread(target=self._report, name="reporting", daemon=True).start()

    def stop(self) -> None:
        """Ask the runtime to stop, and return at once; `on_end` follows."""
        self._stopped.set()
        chunks = self._chunks
        # A generator refuses to be closed while another thread runs it; ours sees the flag at
        # its next chunk. Any other iterator may have a `close` that interrupts it.
        if chunks is not None and not isinstance(chunks, Generator):
            threading.Thread(target=_close, args=(chunks,), name="stopping", daemon=True).start()

    def _run(self) -> None:
        ending: Ending | None = None
        failure: Exception | None = None
        try:
            ending = self._read()
        except EdgekitError as error:
            if self._stopped.is_set():  # a runtime may have to kill its worker in order to stop
                ending = "stopped"
            else:
                failure = error
        except Exception as error:
            failure = error
        with self._news:
            self._outcome = Outcome(self._stopwatch.read(), ending, failure)
            self._ended.set()
            self._news.notify()

    def _read(self) -> Ending:
        messages = self._messages() if callable(self._messages) else self._messages
        chunks = self._chunks = self._runtime.generate(messages, self._sampling)
        finish: Finish | None = None
        try:
            if self._stopped.is_set():  # before there was anything for `stop` to close
                return "stopped"
            for chunk in chunks:
                if self._stopped.is_set():
                    return "stopped"
                finish = chunk.finish
                self._stopwatch.note(chunk)
                with self._news:
                    self._unreported += clean(chunk.text)
                    self._timing = self._stopwatch.read()
                    self._news.notify()
        finally:
            _close(chunks)
        return finish or "stopped"

    def _report(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._unreported or self._outcome)
                text, self._unreported = self._unreported, ""
                timing, outcome = self._timing, self._outcome
            if text:
                self._on_text(text, timing)
            if outcome is not None:
                self._on_end(outcome)
                return
            self._ended.wait(self._report_every_s)


def _close(chunks: Iterator[Chunk]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        with contextlib.suppress(EdgekitError):
            close()
