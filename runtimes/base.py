"""Runtime: what the chat, `run`, `check` and `bench` may ask of a loaded model.

Two generators' worth of surface: `generate` for answers, `score` for measurements. It knows
nothing of files, formats or clocks: timing is done outside, by one clock for every engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # numpy costs 135 ms, which the chat's first paint would wait for
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; every engine gives these the same meaning.

    The order is: repetition penalty, top-k, top-p, min-p, temperature, draw. `temperature` 0 is
    greedy. `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 switch a step off. The
    penalty (Keskar et al. 2019, CTRL) looks at the last `repetition_window` tokens. `seed` None
    draws a fresh one. `stop` are texts that end the answer and are not part of it.
    `ignore_stop_tokens` goes on after the model's own end of answer: for measuring speed.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_stop_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer.

    `text` may be empty while a multi-byte character is incomplete. `tokens` counts the tokens of
    this piece. The last chunk has a `finish`: "stop" (the model or a stop text ended it),
    "length" (`max_tokens`) or "context" (the context is full). `prompt_tokens` is the length of
    the rendered prompt and `reused_tokens` how many of them were still in the KV cache.
    """

    text: str
    tokens: int
    prompt_tokens: int
    reused_tokens: int
    finish: Finish | None = None


class Runtime(Protocol):
    """A loaded model. Not for use from two threads at once; `close` may come from any thread."""

    @property
    def context_length(self) -> int:
        """Return how many tokens fit: prompt and answer together."""

    @property
    def threads(self) -> int:
        """Return the number of threads that the engine computes with."""

    @property
    def peak_rss_bytes(self) -> int:
        """Return the largest resident memory so far of the process that holds the model."""

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[Chunk]:
        """Answer `messages`, rendered by the artifact's chat template, piece by piece.

        Closing the iterator cancels the answer: within one token while decoding, within 250 ms
        while the prompt is processed. Raises InputError if the prompt does not fit the context.
        """

    def complete(self, token_ids: Sequence[int], sampling: Sampling) -> Iterator[Chunk]:
        """Continue `token_ids` as they are, with no template. Cancels and raises as `generate`."""

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each token: float32, shape [len(token_ids), vocabulary].

        Starts from an empty context. The array is only valid until the next call. Raises
        InputError if `token_ids` is longer than the context or holds an id outside the vocabulary.
        """

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of `text`, without adding a beginning-of-text token.

        With `special`, the text of a special token in `text` becomes that token; without, it is
        plain text.
        """

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included, bad UTF-8 replaced."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt text that `generate` would feed for `messages`."""

    def save_state(self, path: Path) -> int:
        """Write the KV cache and its tokens to `path` and return the number of tokens saved."""

    def load_state(self, path: Path) -> int:
        """Restore what `save_state` wrote; return its number of tokens. Raises InputError."""

    def close(self) -> None:
        """Free the model. Safe to call twice."""
