"""Examples: a record becomes tokens, and for each token whether it is to be learnt.

A conversation is written by the model's own chat template; only the assistant's turns are learnt,
each up to the token that ends it. It knows neither files nor losses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from converters.checkpoint import Checkpoint
from converters.reference import load_tokenizer, render_dialogues
from converters.special_tokens import special_tokens, token_ids
from edgekit.errors import EdgekitError, InputError
from edgekit.train.configuration import TooLong
from edgekit.train.records import Message, Record

Render = Callable[[Sequence[Message], bool], str]
"""Writes messages as the model's template does; with True up to where the next answer begins."""

Span = tuple[int, int]
"""Where a turn of the assistant begins and ends in a text, in characters."""


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens that the model sees together, and which of them it has to predict.

    The first token of an example is never predicted: nothing stands before it.
    """

    token_ids: tuple[int, ...]
    learnt: tuple[bool, ...]

    @property
    def targets(self) -> int:
        """Return how many tokens are learnt."""
        return sum(self.learnt[1:])


class Encoder(Protocol):
    """Makes examples of records."""

    def examples(self, record: Record) -> list[Example]:
        """Return the examples of `record`, none if it is left out. Raises InputError."""
        ...


class ChatEncoder:
    """Conversations, in the words of the checkpoint's template."""

    def __init__(self, checkpoint: Checkpoint, context: int, too_long: TooLong) -> None:
        """`context` is the most tokens of an example. Raises InputError without a template."""
        if checkpoint.chat_template is None:
            raise InputError(
                f"{checkpoint.path} has no chat template, so it cannot be trained on chats",
                hint='begin with a chat model, or train on texts: kind = "text"',
            )
        self._checkpoint, self._context, self._too_long = checkpoint, context, too_long
        self._tokenizer = load_tokenizer(checkpoint)
        self._stop = _stop_tokens(checkpoint)

    def examples(self, record: Record) -> list[Example]:
        """Return the conversation as one example; as one for each of the assistant's turns where
        the template writes earlier turns differently once there are later ones."""
        assert not isinstance(record.content, str)  # noqa: S101 - texts have another encoder
        try:
            parts = list(turns(record.content, self._render))
        except InputError as error:
            raise InputError(f"{record.where}: {error.message}", error.hint) from error
        fitted = (self._fit(encode(self._tokenizer, t, s, self._stop), record) for t, s in parts)
        return [example for example in fitted if example.targets]

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        try:
            return render_dialogues(self._checkpoint, [list(messages)], prompt=prompt)[0]
        except EdgekitError:
            raise
        except Exception as error:  # a template's failure can have any type
            raise InputError(f"the chat template refuses the conversation: {error}") from error

    def _fit(self, example: Example, record: Record) -> Example:
        length = len(example.token_ids)
        if length <= self._context:
            return example
        if self._too_long == "skip":
            return Example((), ())
        if self._too_long == "cut":
            return Example(example.token_ids[: self._context], example.learnt[: self._context])
        raise InputError(
            f"{record.where}: the conversation has {length} tokens, the window {self._context}",
            hint='raise [data] context, or set too_long = "skip" or "cut"',
        )


class TextEncoder:
    """Texts, cut into windows; every token is learnt."""

    def __init__(self, checkpoint: Checkpoint, context: int, end_of_text: str | None) -> None:
        """`end_of_text` is the token after each text; None: the one that ends texts for the
        tokenizer. Raises InputError if there is no such token."""
        ids = token_ids(checkpoint)
        special = special_tokens(checkpoint, ids, int(checkpoint.config["vocab_size"]))
        if end_of_text is not None and end_of_text not in ids:
            raise InputError(f"the tokenizer has no token {end_of_text!r:.60}")
        self._end = special.eos if end_of_text is None else ids[end_of_text]
        self._before = [special.bos] if special.add_bos and special.bos is not None else []
        self._context = context
        self._tokenizer = load_tokenizer(checkpoint)

    def examples(self, record: Record) -> list[Example]:
        """Return the windows of the text. Each begins with the last token of the one before, so
        that every token but the first is learnt once."""
        found = self._tokenizer.encode(record.text, add_special_tokens=False).ids
        ids = [*self._before, *found, self._end]
        pieces = [
            tuple(ids[first : first + self._context])
            for first in range(0, len(ids) - 1, self._context - 1)
        ]
        return [Example(piece, (False, *[True] * (len(piece) - 1))) for piece in pieces]


def turns(messages: Sequence[Message], render: Render) -> Iterator[tuple[str, list[Span]]]:
    """Yield texts to learn from, each with the spans of the assistant's words in it.

    A turn begins where the template's prompt for an answer ends. One text is enough if each turn
    is written as it was when it was the last; else each turn has a text of its own, which is what
    the model sees when it answers there. Raises InputError where a turn does not even continue
    its own prompt.
    """
    whole = render(messages, False)
    alone: list[tuple[str, Span]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            alone.append(last_turn(messages[: number + 1], render))
    if all(whole.startswith(text) for text, _ in alone):
        yield whole, [span for _, span in alone]
    else:
        yield from ((text, [span]) for text, span in alone)


def last_turn(messages: Sequence[Message], render: Render) -> tuple[str, Span]:
    """Return `messages` as a text, and where in it the last one, the assistant's, lies.

    Raises InputError where the template does not write it behind the prompt for it.
    """
    before, after = render(messages[:-1], True), render(messages, False)
    if not after.startswith(before) or len(after) == len(before):
        raise InputError(
            f"the chat template does not write message {len(messages)} behind the prompt "
            "for it, so its words cannot be told from the rest"
        )
    return after, (len(before), len(after))


def encode(tokenizer: Any, text: str, spans: Sequence[Span], stop: frozenset[int]) -> Example:
    """Return the tokens of `text`; learnt are those in `spans`, up to the last of `stop` in each.

    What the template writes behind the end of a turn, such as a line feed, is not the model's to
    say. A token across the beginning of a span belongs to the prompt.
    """
    found = tokenizer.encode(text, add_special_tokens=False)
    ids, offsets = found.ids, found.offsets  # each is built anew when it is asked for
    starts = [begin for begin, _ in offsets]
    learnt = [False] * len(ids)
    for begin, end in spans:
        first, last = bisect_left(starts, begin), bisect_left(starts, end)
        ends = [i for i in range(first, last) if ids[i] in stop]
        for i in range(first, ends[-1] + 1 if ends else last):
            learnt[i] = True
    return Example(tuple(ids), tuple(learnt))


def _stop_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    rows = int(checkpoint.config["vocab_size"])
    return frozenset(special_tokens(checkpoint, token_ids(checkpoint), rows).stop)
