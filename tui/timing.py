"""The clock of an answer: time to first token and decode speed, taken from outside the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtimes.base import Chunk

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """What is known about an answer so far.

    `first_token_s` is the time from asking to the first piece with a token in it (TTFT).
    `decode_tokens_per_s` counts the tokens after that piece, and the time from it to the last.
    Both are None until there is something to divide.
    """

    tokens: int = 0
    prompt_tokens: int = 0
    first_token_s: float | None = None
    decode_tokens_per_s: float | None = None

    @property
    def context_tokens(self) -> int:
        """Return how much of the context is taken: prompt and answer."""
        return self.prompt_tokens + self.tokens


class Stopwatch:
    """Started when the question is asked; told of every chunk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock()
        self._first: float | None = None
        self._last = self._start
        self._first_tokens = 0
        self._tokens = 0
        self._prompt_tokens = 0

    def note(self, chunk: Chunk) -> None:
        """Count `chunk`, which has just arrived."""
        now = self._clock()
        self._prompt_tokens = chunk.prompt_tokens
        if chunk.tokens:
            self._tokens += chunk.tokens
            self._last = now
            if self._first is None:
                self._first, self._first_tokens = now, chunk.tokens

    def read(self) -> Timing:
        """Return the timing up to the last chunk."""
        if self._first is None:
            return Timing(prompt_tokens=self._prompt_tokens)
        decoding_s = self._last - self._first
        decoded = self._tokens - self._first_tokens
        return Timing(
            tokens=self._tokens,
            prompt_tokens=self._prompt_tokens,
            first_token_s=self._first - self._start,
            decode_tokens_per_s=decoded / decoding_s if decoding_s > 0 else None,
        )
