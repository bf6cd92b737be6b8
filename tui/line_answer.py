"""One question of the line mode on its way: saved, asked, printed as it comes, ended.

It saves before it asks, and while the answer grows. Knows no command.
"""

from __future__ import annotations

import contextlib
import queue
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from tui.answering import Answering, Outcome
from tui.context import Fitted, warning
from tui.conversation import Answer, Ending, Question
from tui.naming import model_name
from tui.timing import Clock, Timing

if TYPE_CHECKING:
    from runtimes.base import Runtime, Sampling
    from tui.plain import PlainChat

# A wait without a limit cannot be interrupted by Ctrl+C on every platform.
POLL_S = 0.5


class LineAnswer:
    """Answers one question once. `text` is what was written so far."""

    def __init__(self, chat: PlainChat, runtime: Runtime, question: Question, clock: Clock) -> None:
        self._chat = chat
        self._recorder = chat.recorder
        self._runtime = runtime
        self._question = question
        self._clock = clock
        self._timing = Timing()
        self.text = ""

    def run(self) -> None:
        """Ask, print and save. Raises what the runtime does, after saving what there is.

        An answer that failed after its first words stays in the chat, marked; a question that
        got no word is taken back.
        """
        sampling = self._sampling()
        # A full disk stops no chat: what could not be saved is told, and saved later.
        self._chat.guarded(lambda: self._recorder.begin(self._question))
        ending: Ending = "interrupted"
        try:
            outcome = self._stream(self._fit(), sampling)
            self._timing = outcome.timing
            if outcome.ending is None:
                raise outcome.error or RuntimeError("the answer ended without a reason")
            ending = outcome.ending
        finally:
            if self.text or ending not in ("interrupted", "stopped"):
                self._finish(ending)
            else:
                self._chat.guarded(lambda: self._recorder.withdraw(self._question))
        self._summarise(ending)

    def _fit(self) -> Fitted:
        chat, recorder = self._chat, self._recorder
        fitted = chat.fitter.fit(
            self._runtime,
            recorder.conversation,
            self._question,
            recorder.chat.system,
            chat.sampling.max_tokens,
        )
        if fitted.left_out > chat.left_out:
            turns = "turn is" if fitted.left_out == 1 else f"{fitted.left_out} turns are"
            chat.say(f"[the context is full: the oldest {turns} no longer sent; see /context]")
        chat.left_out = fitted.left_out
        return fitted

    def _sampling(self) -> Sampling:
        """Return the sampling of this chat; a fixed seed moves on by one for each new answer."""
        sampling = self._chat.sampling
        if sampling.seed is None:
            return sampling
        earlier = sum(a is not None for a in self._recorder.conversation.answers(self._question))
        return replace(sampling, seed=sampling.seed + earlier)

    def _stream(self, fitted: Fitted, sampling: Sampling) -> Outcome:
        """Print what arrives until the outcome does. Ctrl+C stops the model, not the printing."""
        reports: queue.Queue[tuple[str, Timing] | Outcome] = queue.Queue()
        answering = Answering(
            self._runtime,
            fitted.messages,
            sampling,
            on_text=lambda text, timing: reports.put((text, timing)),
            on_end=reports.put,
            clock=self._clock,
        )
        self._chat.announce(model_name(self._chat.model))
        answering.start()
        while True:
            try:
                report = reports.get(timeout=POLL_S)
                if isinstance(report, Outcome):
                    break
                self._print(*report)
            except queue.Empty:
                continue
            except KeyboardInterrupt:
                answering.stop()
            except OSError:  # nobody reads any more
                answering.stop()
                raise
        if self.text and not self.text.endswith("\n"):
            self._chat.give("\n")
        return report

    def _print(self, text: str, timing: Timing) -> None:
        self.text += text
        self._timing = timing
        self._chat.give(text)
        with contextlib.suppress(EdgekitError):  # `finish` tries again, and complains
            self._recorder.progress(self.text, timing)

    def _finish(self, ending: Ending) -> None:
        answer = Answer(
            self._recorder.answer_id,
            self._question.id,
            self.text,
            ending,
            self._chat.model,
            self._timing.tokens,
            self._timing.first_token_s,
            self._timing.decode_tokens_per_s,
        )
        self._chat.guarded(lambda: self._recorder.finish(answer))

    def _summarise(self, ending: Ending) -> None:
        timing = self._timing
        parts = ["1 token" if timing.tokens == 1 else f"{timing.tokens} tokens"]
        if timing.first_token_s is not None:
            parts.append(f"first token {timing.first_token_s:.2f} s")
        if timing.decode_tokens_per_s is not None:
            parts.append(f"{timing.decode_tokens_per_s:.1f} tokens/s")
        if not self.text and ending == "stopped":
            parts = ["stopped before the first word; the question is taken back"]
        elif note := Answer("", "", self.text, ending, tokens=timing.tokens).note():
            parts.append(note)
        self._chat.say(f"[{', '.join(parts)}]")
        reserve = self._chat.sampling.max_tokens
        if full := warning(timing.context_tokens, self._runtime.context_length, reserve):
            self._chat.say(f"[{full}]")
