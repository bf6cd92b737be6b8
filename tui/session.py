"""The model behind the screen: opens it, asks it, stops it, changes it, closes it, all in threads.

Reports by typed messages. Knows no widget; the screen decides what a report looks like.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from textual.message import Message as TextualMessage

from edgekit.errors import EdgekitError, InputError, UsageError
from tui.answering import Answering, Outcome
from tui.messages import AnswerEnded, AnswerGrew, ModelFailed, ModelLoaded
from tui.timing import Clock

if TYPE_CHECKING:
    from runtimes.base import Message, Runtime, Sampling

# Fifteen updates a second read as continuous, and leave the interface most of its time for keys.
REPORT_EVERY_S = 1 / 15

Found = TypeVar("Found")


class Session:
    """At most one runtime and at most one answer at a time.

    `open_runtime` takes the name of an artifact and is called in a thread. `post` must be safe to
    call from any thread (Textual's `post_message` is). Everything else is called from the
    interface's thread, which also hands the reports back to `loaded`, `failed` and `ended`.
    """

    def __init__(
        self,
        open_runtime: Callable[[str], Runtime],
        post: Callable[[TextualMessage], object],
        clock: Clock,
    ) -> None:
        self._open_runtime = open_runtime
        self._post = post
        self._clock = clock
        self._answering: Answering | None = None
        self._closed = threading.Event()
        self._turn = threading.Lock()  # one model is freed before the next one is loaded
        self._using = threading.Lock()  # a runtime is asked one thing at a time
        self._loads = 0
        self.runtime: Runtime | None = None
        self.loading = False

    @property
    def answering(self) -> bool:
        """Return whether an answer is being written, or stopped but not yet ended."""
        return self._answering is not None

    def _report(self, message: TextualMessage) -> None:
        with contextlib.suppress(RuntimeError):  # from Textual, if the app has just gone
            self._post(message)

    def load(self, model: str) -> None:
        """Open `model` in a thread, in place of the one before: ModelLoaded or ModelFailed follows.

        Of two calls, only the later one is reported.
        """
        old, self.runtime, self.loading = self.runtime, None, True
        self._loads += 1
        arguments = (model, self._loads, old)
        threading.Thread(target=self._load, args=arguments, name="loading", daemon=True).start()

    def _load(self, model: str, number: int, old: Runtime | None) -> None:
        with self._turn:
            with self._using:
                _free(old)
            if number != self._loads or self._closed.is_set():
                return
            try:
                runtime = self._open_runtime(model)
            except Exception as error:
                if number == self._loads:
                    self._report(ModelFailed(error))
                return
            if number == self._loads and not self._closed.is_set():
                self._report(ModelLoaded(runtime))
            else:
                _free(runtime)

    def loaded(self, runtime: Runtime) -> None:
        """Take over what ModelLoaded brought."""
        self.runtime, self.loading = runtime, False

    def failed(self) -> None:
        """Note ModelFailed; `load` may be called again."""
        self.loading = False

    def ask(self, prepare: Callable[[Runtime], Sequence[Message]], sampling: Sampling) -> None:
        """Start an answer: AnswerGrew, any number of times, then AnswerEnded follow.

        `prepare` makes the messages, in the answer's thread. What it raises ends the answer.
        """
        runtime = self.runtime
        if runtime is None or self._answering is not None:
            raise RuntimeError("asked while the model is loading or answering")
        self._answering = Answering(
            runtime,
            lambda: self._prepared(prepare, runtime),
            sampling,
            on_text=lambda text, timing: self._report(AnswerGrew(text, timing)),
            on_end=lambda outcome: self._report(AnswerEnded(outcome)),
            clock=self._clock,
            report_every_s=REPORT_EVERY_S,
        )
        self._answering.start()

    def _prepared(
        self, prepare: Callable[[Runtime], Sequence[Message]], runtime: Runtime
    ) -> Sequence[Message]:
        with self._using:
            return prepare(runtime)

    def use(self, work: Callable[[Runtime], Found]) -> Found:
        """Return what `work` finds out from the idle model, as how many tokens a text has.

        For threads. An answer that is asked for meanwhile waits until `work` is done. Raises
        UsageError if there is no model yet, or it answers; and what `work` raises.
        """
        with self._using:
            runtime = self.runtime
            if runtime is None or self._answering is not None:
                raise UsageError("the model is busy", hint="ask again when it is ready")
            return work(runtime)

    def stop(self) -> None:
        """Stop the answer, if there is one. Returns at once; AnswerEnded follows."""
        if self._answering is not None:
            self._answering.stop()

    def ended(self, outcome: Outcome) -> None:
        """Note AnswerEnded. After a failure that is not the question's fault, `load` anew."""
        self._answering = None
        if outcome.error is not None and not isinstance(outcome.error, InputError):
            runtime, self.runtime = self.runtime, None
            threading.Thread(target=_free, args=(runtime,), name="freeing", daemon=True).start()

    def close(self) -> None:
        """Stop and free the model. Safe to call twice, and while it is still loading."""
        self._closed.set()
        self.stop()
        runtime, self.runtime = self.runtime, None
        _free(runtime)


def _free(runtime: Runtime | None) -> None:
    if runtime is not None:
        with contextlib.suppress(EdgekitError):
            runtime.close()
