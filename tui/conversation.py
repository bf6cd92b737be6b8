"""A conversation: questions and their answers, and the messages that a model is sent for one.

Plain data. Knows nothing of widgets, threads or engines.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from runtimes.base import Message, Sampling

Ending = Literal["stop", "length", "context", "stopped"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. `ending` is the runtime's `Finish`, or "stopped" by the user."""

    text: str
    ending: Ending

    def note(self, sampling: Sampling) -> str:
        """Return what a reader should know of how it ended, or nothing if it ended by itself."""
        match self.ending:
            case "stopped":
                return "stopped"
            case "length":
                return f"cut off at the limit of {sampling.max_tokens} tokens"
            case "context":
                return "cut off: the context is full"
            case "stop":
                return "" if self.text.strip() else "the model answered nothing"


@dataclass(slots=True, eq=False)
class Turn:
    """A question and its answer; `attempts` counts how often the model was asked."""

    question: str
    answer: Answer | None = None
    attempts: int = 0

    def next_sampling(self, sampling: Sampling) -> Sampling:
        """Count an attempt and return how to sample it: a fixed seed moves on by one each time."""
        self.attempts += 1
        if sampling.seed is None:
            return sampling
        return replace(sampling, seed=sampling.seed + self.attempts - 1)


@dataclass(slots=True)
class Conversation:
    """The answered turns, oldest first, under an optional system prompt."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self, turn: Turn) -> list[Message]:
        """Return what the model is sent to answer `turn`: all that went before, and its question.

        `turn` may be one of the conversation (to answer it again) or a new one.
        """
        from runtimes.base import Message  # imports numpy: 130 ms, so not before the first paint

        messages = [Message("system", self.system)] if self.system else []
        for earlier in self.turns:
            if earlier is turn:
                break
            messages.append(Message("user", earlier.question))
            messages.append(Message("assistant", earlier.answer.text if earlier.answer else ""))
        return [*messages, Message("user", turn.question)]

    def record(self, turn: Turn, answer: Answer) -> None:
        """Give `turn` its answer and make it part of the conversation."""
        turn.answer = answer
        if turn not in self.turns:
            self.turns.append(turn)
