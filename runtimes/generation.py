"""The one generation loop: every engine answers through it, so sampling means the same in each.

It knows an Engine and token ids; conversations and files are somebody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import takewhile

from edgekit.errors import InputError
from runtimes.base import Chunk, Finish, Sampling
from runtimes.engine import Engine, Interrupted
from runtimes.sampling import Sampler
from runtimes.text_stream import TextStream

INTERRUPT_AGAIN_S = 0.01


class Answer(Iterator[Chunk]):
    """The chunks of one answer. `close` cancels it, from any thread, also while one is computed.

    A closed answer ends: the thread that iterates it sees the end, not an error.
    """

    def __init__(
        self,
        chunks: Iterator[Chunk],
        cancelled: threading.Event,
        turn: threading.RLock,
        interrupt: Callable[[], None],
    ) -> None:
        self._chunks = chunks
        self._cancelled = cancelled
        self._turn = turn
        self._interrupt = interrupt

    def __next__(self) -> Chunk:
        with self._turn:
            if self._cancelled.is_set():
                raise StopIteration
            try:
                return next(self._chunks)
            except Interrupted:
                self._cancelled.set()
                raise StopIteration from None

    def close(self) -> None:
        """End the answer; returns when nothing of it runs any more."""
        self._cancelled.set()
        take_turn(self._turn, self._interrupt)
        self._turn.release()


def take_turn(turn: threading.RLock, interrupt: Callable[[], None]) -> None:
    """Acquire `turn`, interrupting whoever holds it until it lets go.

    Again and again, because an interrupt that comes just before `evaluate` starts is lost.
    """
    while not turn.acquire(timeout=INTERRUPT_AGAIN_S):
        interrupt()


def generate(
    engine: Engine,
    prompt: Sequence[int],
    sampling: Sampling,
    stop_token_ids: Collection[int],
    cancelled: threading.Event,
) -> Iterator[Chunk]:
    """Continue `prompt` on `engine`, one chunk per token, until something ends the answer.

    Raises UsageError for impossible sampling, InputError if the prompt is empty, holds an id
    outside the vocabulary or leaves no room for an answer, Interrupted when `engine` was
    interrupted. The engine's cache is in a valid state whenever a chunk or an error comes out.
    """
    sampler = Sampler(sampling)
    require_known(prompt, engine.vocabulary_size)
    require_room(len(prompt), engine.context_length)
    stops = frozenset() if sampling.ignore_stop_tokens else frozenset(stop_token_ids)
    text = TextStream(sampling.stop)
    tokens = list(prompt)
    reused = keep_prefix(engine, tokens)
    logits = engine.evaluate(tokens[reused:])
    while not cancelled.is_set():
        token = sampler.choose(logits, tokens)
        if token in stops:
            yield Chunk(text.flush(), 0, len(prompt), reused, "stop")
            return
        tokens.append(token)
        piece = text.push(engine.token_bytes(token))
        finish = _finish(text, len(tokens) - len(prompt), len(tokens), sampling, engine)
        if finish is not None:
            piece += text.flush()
        yield Chunk(piece, 1, len(prompt), reused, finish)
        if finish is not None or cancelled.is_set():
            return
        logits = engine.evaluate((token,))


def _finish(
    text: TextStream, answered: int, total: int, sampling: Sampling, engine: Engine
) -> Finish | None:
    """Return why the answer ends after this token, or None."""
    if text.stopped:
        return "stop"
    if answered >= sampling.max_tokens:
        return "length"
    return "context" if total >= engine.context_length else None


def keep_prefix(engine: Engine, prompt: Sequence[int]) -> int:
    """Cut the engine's cache to what it shares with `prompt`; return the tokens that are left.

    At least one token of the prompt is left to evaluate: its logits begin the answer.
    """
    engine.truncate(min(common_prefix(engine.cached_tokens, prompt), len(prompt) - 1))
    return len(engine.cached_tokens)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many ids `left` and `right` share from the beginning."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    )


def require_room(prompt_tokens: int, context_length: int) -> None:
    """Raise InputError unless a prompt and one answer token fit the context."""
    if prompt_tokens == 0:
        raise InputError("the prompt is empty", hint="give at least one token to continue")
    if prompt_tokens >= context_length:
        raise InputError(
            f"the prompt has {prompt_tokens} tokens and the context holds {context_length}, "
            "one of them for the answer",
            hint="shorten the prompt, or load the model with a longer context",
        )


def require_known(token_ids: Sequence[int], vocabulary_size: int) -> None:
    """Raise InputError if an id is outside the vocabulary."""
    for position, token in enumerate(token_ids):
        if not 0 <= token < vocabulary_size:
            raise InputError(
                f"token {token} at position {position} is outside the vocabulary "
                f"of {vocabulary_size}"
            )
