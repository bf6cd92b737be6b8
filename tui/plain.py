"""The chat as lines: questions from standard input, answers to standard output, all else to stderr.

For pipes, for screen readers, and for terminals that cannot draw. Needs no Textual.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from edgekit.errors import EdgekitError
from tui.answering import Answering, Outcome
from tui.clean import clean_line, clean_paste
from tui.conversation import Answer, Conversation, Turn
from tui.timing import Clock

if TYPE_CHECKING:
    from runtimes.base import Runtime, Sampling

# A wait without a limit cannot be interrupted by Ctrl+C on every platform.
POLL_S = 0.5


def run_plain(
    open_runtime: Callable[[], Runtime],
    sampling: Sampling,
    system: str | None = None,
    *,
    title: str = "the model",
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
    clock: Clock = time.perf_counter,
) -> int:
    """Chat line by line until the input ends; return the exit code.

    Each line is a question; `title` names the model. Ctrl+C stops an answer; between answers it
    raises KeyboardInterrupt, as usual. The streams default to those of the process. The exit
    code is 0, or that of the last EdgekitError if an answer failed. What `open_runtime` raises is
    raised.
    """
    out, err = stdout or sys.stdout, stderr or sys.stderr
    chat = _PlainChat(sampling, Conversation(system), out, err, clock)
    print(f"loading {clean_line(title)} ...", file=err, flush=True)
    start = clock()
    with contextlib.closing(open_runtime()) as runtime:
        loaded_s = clock() - start
        print(f"loaded in {loaded_s:.1f} s; the end of the input ends the chat", file=err)
        return chat.run(runtime, stdin or sys.stdin)


class _PlainChat:
    def __init__(
        self,
        sampling: Sampling,
        conversation: Conversation,
        out: TextIO,
        err: TextIO,
        clock: Clock,
    ) -> None:
        self._sampling = sampling
        self._conversation = conversation
        self._out = out
        self._err = err
        self._clock = clock

    def run(self, runtime: Runtime, lines: TextIO) -> int:
        exit_code = 0
        while True:
            if lines.isatty():
                print("\nYou: ", end="", file=self._err, flush=True)
            line = lines.readline()
            if not line:
                return exit_code
            if question := clean_paste(line).strip():
                try:
                    self._answer(runtime, Turn(question))
                except EdgekitError as error:
                    exit_code = error.exit_code
                    self._complain(error)

    def _complain(self, error: EdgekitError) -> None:
        print(f"error: {clean_line(error.message)}", file=self._err)
        if error.hint:
            print(f"hint: {clean_line(error.hint)}", file=self._err)
        self._err.flush()

    def _answer(self, runtime: Runtime, turn: Turn) -> None:
        reports: queue.Queue[str | Outcome] = queue.Queue()
        answering = Answering(
            runtime,
            self._conversation.messages(turn),
            turn.next_sampling(self._sampling),
            on_text=lambda text, _: reports.put(text),
            on_end=reports.put,
            clock=self._clock,
        )
        answering.start()
        text, outcome = self._print_answer(answering, reports)
        if outcome.ending is None:
            raise outcome.error or RuntimeError("the answer ended without a reason")
        answer = Answer(text, outcome.ending)
        self._conversation.record(turn, answer)
        self._summarise(answer, outcome)

    def _print_answer(
        self, answering: Answering, reports: queue.Queue[str | Outcome]
    ) -> tuple[str, Outcome]:
        """Print what arrives until the outcome does. Ctrl+C stops the model, not the printing."""
        text = ""
        while True:
            try:
                report = reports.get(timeout=POLL_S)
                if isinstance(report, Outcome):
                    break
                text += report
                print(report, end="", file=self._out, flush=True)
            except queue.Empty:
                continue
            except KeyboardInterrupt:
                answering.stop()
            except OSError:  # nobody reads any more
                answering.stop()
                raise
        if text and not text.endswith("\n"):
            print(file=self._out, flush=True)
        return text, report

    def _summarise(self, answer: Answer, outcome: Outcome) -> None:
        timing, parts = outcome.timing, [f"{outcome.timing.tokens} tokens"]
        if timing.first_token_s is not None:
            parts.append(f"first token {timing.first_token_s:.2f} s")
        if timing.decode_tokens_per_s is not None:
            parts.append(f"{timing.decode_tokens_per_s:.1f} tokens/s")
        if note := answer.note(self._sampling):
            parts.append(note)
        print(f"[{', '.join(parts)}]", file=self._err, flush=True)
