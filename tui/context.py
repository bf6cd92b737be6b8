"""What of a chat is sent to the model when not all of it fits the context.

The oldest turns are left out, many at once: the engine keeps the KV cache of a beginning that it
has seen, and each new beginning costs a whole prompt. Nothing is deleted from the chat. Knows no
widget and no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import InputError
from tui.conversation import Attachment, Conversation, Question, new_id

if TYPE_CHECKING:
    from runtimes.base import Message, Runtime

NEARLY_FULL = 0.85
KEPT_SHARE = 1 / 2  # of the context, after turns were left out
MOST_RESERVED_SHARE = 1 / 4
WHAT_THEN = (
    "When it is full, the oldest turns are no longer sent, down to about half of the context, and "
    "the system prompt stays. Nothing is deleted: you can still read, search and export all of it."
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What to send: `messages`, which are `prompt_tokens` long, without the first `left_out`
    turns of the branch.
    """

    messages: list[Message]
    left_out: int
    prompt_tokens: int


def room_tokens(context_length: int, reserve_tokens: int) -> int:
    """Return how long a prompt may be, so that `reserve_tokens` are kept for the answer.

    At most a quarter of the context is reserved: a generous limit on answers must not push the
    chat out of a small context.
    """
    return context_length - min(reserve_tokens, int(context_length * MOST_RESERVED_SHARE))


def warning(tokens: int, context_length: int, reserve_tokens: int = 0) -> str | None:
    """Return a sentence from 85 % of the room on: how full it is and what will be done then.

    `tokens` are those of the last prompt and its answer.
    """
    room = room_tokens(context_length, reserve_tokens)
    if context_length <= 0 or tokens < NEARLY_FULL * room:
        return None
    return (
        f"the context is nearly full: {tokens:,} of {context_length:,} tokens. "
        "When it is, the oldest turns will no longer be sent; nothing is deleted"
    )


class ContextFitter:
    """Fits one chat after the other; what was left out stays out until the branch changes.

    Asks the runtime, so never while it answers, and from one thread at a time.
    """

    def __init__(self) -> None:
        self._left_out: list[Message] = []
        self._counts: dict[str, int] = {}
        self._counted_by: Runtime | None = None

    def fit(
        self,
        runtime: Runtime,
        conversation: Conversation,
        question: Question,
        system: str,
        reserve_tokens: int,
    ) -> Fitted:
        """Choose what is sent to answer `question`.

        Raises InputError if not even the question fits, with the system prompt and one token of
        an answer.
        """
        fitted = self.choose(runtime, conversation, question, system, reserve_tokens)
        start = bool(system)
        everything = conversation.messages(question, system)
        self._left_out = everything[start : start + 2 * fitted.left_out]
        return fitted

    def choose(
        self,
        runtime: Runtime,
        conversation: Conversation,
        question: Question,
        system: str,
        reserve_tokens: int,
    ) -> Fitted:
        """Return what `fit` would, and remember nothing of it."""

        def fitted(left_out: int) -> Fitted:
            messages = conversation.messages(question, system, left_out)
            return Fitted(messages, left_out, self._count(runtime, messages))

        everything = conversation.messages(question, system)
        turns = (len(everything) - bool(system) - 1) // 2
        room = room_tokens(runtime.context_length, reserve_tokens)
        chosen = fitted(self._still_left_out(everything[bool(system) :]))
        if chosen.prompt_tokens <= room:
            return chosen
        least = fitted(turns)
        if least.prompt_tokens >= runtime.context_length:
            raise _too_long(least.prompt_tokens, runtime.context_length, question)
        target = min(room, int(runtime.context_length * KEPT_SHARE))
        if least.prompt_tokens > target:  # a long question: keep what fits beside it
            target = max(room, least.prompt_tokens)
        low, high = chosen.left_out + 1, turns
        while low < high:
            middle = fitted((low + high) // 2)
            if middle.prompt_tokens <= target:
                high, least = middle.left_out, middle
            else:
                low = middle.left_out + 1
        return least

    def _still_left_out(self, messages: list[Message]) -> int:
        """Return how many turns were left out before, 0 on another branch or in another chat."""
        before = self._left_out
        kept = len(before) < len(messages) and messages[: len(before)] == before
        return len(before) // 2 if kept else 0

    def _count(self, runtime: Runtime, messages: list[Message]) -> int:
        if runtime is not self._counted_by or len(self._counts) > 16:
            self._counts, self._counted_by = {}, runtime
        prompt = runtime.render(messages)
        if prompt not in self._counts:
            self._counts[prompt] = len(runtime.tokenize(prompt, special=True))
        return self._counts[prompt]


def describe(
    runtime: Runtime,
    conversation: Conversation,
    system: str,
    attachments: Sequence[Attachment],
    reserve_tokens: int,
    fitter: ContextFitter,
) -> str:
    """Return what the context would hold if the next question was asked now, and what comes then.

    `attachments` are those of the next question. One line for each part, with its tokens. If not
    even they fit, the text says so.
    """
    question = Question(new_id(), conversation.head, "", tuple(attachments))
    try:
        fitted = fitter.choose(runtime, conversation, question, system, reserve_tokens)
    except InputError as error:
        return f"{error.message}\n{error.hint}"
    turns = conversation.turns()[fitted.left_out :]
    files = [file for turn in turns for file in turn.question.attachments] + list(attachments)
    parts = [(f"file {file.name}", len(runtime.tokenize(file.text))) for file in files]
    if system:
        parts.insert(0, ("system prompt, always sent", len(runtime.tokenize(system))))
    rest = fitted.prompt_tokens - sum(tokens for _, tokens in parts)
    parts.append((f"{_turns(len(turns))}, and the marks of the chat template", rest))
    reserved = runtime.context_length - room_tokens(runtime.context_length, reserve_tokens)
    free = runtime.context_length - fitted.prompt_tokens
    parts.append((f"free; {reserved:,} of it are kept for the answer", free))
    parts.append(("in all, for prompt and answer together", runtime.context_length))
    lines = [f"{tokens:>9,} tokens  {name}" for name, tokens in parts]
    if fitted.left_out:
        lines += ["", f"{_turns(fitted.left_out)} no longer sent, but still in this chat."]
    return "\n".join([*lines, "", WHAT_THEN])


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count:,} turns"


def _too_long(tokens: int, context_length: int, question: Question) -> InputError:
    detach = "detach a file, " if question.attachments else ""
    return InputError(
        f"the question has {tokens:,} tokens with the system prompt, and the context holds "
        f"{context_length:,}, one of them for the answer",
        hint=f"shorten it, {detach}or start with a longer --context",
    )
