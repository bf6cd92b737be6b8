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
    from runtimes.base import Chunk, Message, Runtime, Sampling


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended. `error` is set if the runtime failed, and `ending` is None then."""

    timing: Timing
    ending: Ending | None = None
    error: Exception | None = None


class Answering:
    """Asks `runtime` once. `start` it; `stop` may be called from any thread, at any time.

    `on_text(text, timing)` gets the pieces, joined so that it is called at most once in
    `report_every_s` seconds; `on_end(outcome)` is called once, last. Both run in the thread.
    """

    def __init__(
        self,
        runtime: Runtime,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        on_text: Callable[[str, Timing], None],
        on_end: Callable[[Outcome], None],
        clock: Clock,
        report_every_s: float = 0.0,
    ) -> None:
        self._runtime = runtime
        self._messages = messages
        self._sampling = sampling
        self._on_text = on_text
        self._on_end = on_end
        self._report_every_s = report_every_s
        self._clock = clock
        self._stopwatch = Stopwatch(clock)
        self._chunks: Iterator[Chunk] | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin in a new thread. A daemon: quitting never waits for a model to be polite."""
        threading.Thread(target=self._run, name="answering", daemon=True).start()

    def stop(self) -> None:
        """Ask the runtime to stop, and return at once; `on_end` follows."""
        self._stopped.set()
        chunks = self._chunks
        # A generator refuses to be closed while another thread runs it; ours sees the flag at
        # its next chunk. Any other iterator may have a `close` that interrupts it.
        if chunks is not None and not isinstance(chunks, Generator):
            threading.Thread(target=_close, args=(chunks,), name="stopping", daemon=True).start()

    def _run(self) -> None:
        try:
            ending = self._read()
        except EdgekitError as error:
            if self._stopped.is_set():  # a runtime may have to kill its worker in order to stop
                outcome = Outcome(self._stopwatch.read(), "stopped")
            else:
                outcome = Outcome(self._stopwatch.read(), error=error)
        except Exception as error:
            outcome = Outcome(self._stopwatch.read(), error=error)
        else:
            outcome = Outcome(self._stopwatch.read(), ending)
        self._on_end(outcome)

    def _read(self) -> Ending:
        self._chunks = self._runtime.generate(self._messages, self._sampling)
        pending, reported = "", float("-inf")
        ending: Ending | None = None
        try:
            for chunk in self._chunks:
                now = self._stopwatch.note(chunk)
                if self._stopped.is_set():
                    break
                pending += clean(chunk.text)
                ending = chunk.finish or ending
                if pending and now - reported >= self._report_every_s:
                    self._on_text(pending, self._stopwatch.read())
                    pending, reported = "", now
        finally:
            _close(self._chunks)
            if pending:
                self._on_text(pending, self._stopwatch.read())
        return ending or "stopped"


def _close(chunks: Iterator[Chunk]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        with contextlib.suppress(EdgekitError):
            close()
