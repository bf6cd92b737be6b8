from __future__ import annotations

import itertools

import pytest

from edgekit.errors import InputError
from runtimes.base import Message
from runtimes.echo import EchoRuntime
from tui.context import ContextFitter, Fitted, describe, room_tokens, warning
from tui.conversation import Answer, Attachment, Conversation, Question, new_id

SYSTEM = "be brief"


class Counting(EchoRuntime):
    """The echo, whose tokens are bytes, and how often it was asked to count."""

    counted = 0

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        self.counted += 1
        return super().tokenize(text, special=special)


class Chatting:
    """A chat of equal turns with a model of 1,000 tokens."""

    def __init__(self, context_length: int = 1000) -> None:
        self.runtime = Counting(context_length=context_length)
        self.conversation = Conversation()
        self.fitter = ContextFitter()

    def ask(self, text: str = "q" * 40, reserve: int = 100, system: str = SYSTEM) -> Fitted:
        question = Question(new_id(), self.conversation.head, text)
        fitted = self.fitter.fit(self.runtime, self.conversation, question, system, reserve)
        self.conversation.put(question)
        self.conversation.put(Answer(new_id(), question.id, "a" * 40, "stop"))
        return fitted


def test_everything_is_sent_while_it_fits() -> None:
    chat = Chatting()
    for turns in range(6):
        fitted = chat.ask()
        assert fitted.left_out == 0
        assert len(fitted.messages) == 2 + 2 * turns
    assert chat.runtime.counted == 6


def test_the_oldest_turns_are_left_out_in_one_step_and_the_choice_is_kept() -> None:
    chat = Chatting()
    fits = [chat.ask() for _ in range(40)]
    steps = [fitted.left_out for fitted in fits]
    changes = [n for n in range(1, 40) if steps[n] != steps[n - 1]]
    assert steps == sorted(steps)
    assert 5 < len(changes) < 12  # not at each of the more than thirty turns that are too many
    for fitted in fits:
        length = len(chat.runtime.tokenize(chat.runtime.render(fitted.messages)))
        assert fitted.prompt_tokens == length <= 1000 - 100
        assert fitted.messages[0] == Message("system", SYSTEM)
        assert fitted.messages[1].role == "user"
    for n in changes:
        assert 400 < fits[n].prompt_tokens <= 500


def test_between_two_steps_each_prompt_begins_with_the_one_before() -> None:
    chat = Chatting()
    fits = [chat.ask() for _ in range(30)]
    for before, after in itertools.pairwise(fits):
        if before.left_out == after.left_out:
            start = chat.runtime.render(before.messages)
            assert chat.runtime.render(after.messages).startswith(start)


def test_few_counts_are_needed_for_a_long_chat() -> None:
    chat = Chatting()
    for _ in range(500):
        question = Question(new_id(), chat.conversation.head, "q" * 40)
        chat.conversation.put(question)
        chat.conversation.put(Answer(new_id(), question.id, "a" * 40, "stop"))
    fitted = chat.ask()
    assert fitted.left_out > 490
    assert chat.runtime.counted <= 12


def test_another_branch_is_decided_anew() -> None:
    chat = Chatting()
    fits = [chat.ask() for _ in range(20)]
    assert fits[-1].left_out > 0
    second = chat.conversation.turns()[1].question
    other = Question(new_id(), second.parent, "other words")
    fitted = chat.fitter.fit(chat.runtime, chat.conversation, other, SYSTEM, 100)
    assert fitted.left_out == 0


def test_a_question_that_cannot_fit_is_refused_with_both_numbers() -> None:
    chat = Chatting()
    chat.ask()
    with pytest.raises(InputError, match=r"1,225 tokens .* holds 1,000") as caught:
        chat.ask("x" * 1201)
    assert "shorten it" in caught.value.hint
    question = Question(new_id(), None, "what?", (Attachment("a.txt", "x" * 1200),))
    with pytest.raises(InputError) as caught:
        chat.fitter.fit(chat.runtime, Conversation(), question, "", 100)
    assert "detach" in caught.value.hint


@pytest.mark.parametrize("length", range(400, 980, 20))
def test_a_long_question_keeps_what_fits_beside_it(length: int) -> None:
    chat = Chatting()
    for _ in range(8):
        chat.ask()
    fitted = chat.ask("x" * length)
    assert fitted.prompt_tokens < 1000
    assert fitted.messages[-1].content == "x" * length
    if fitted.left_out < 8:
        assert fitted.prompt_tokens <= 900


def test_at_most_a_quarter_is_kept_for_the_answer() -> None:
    assert room_tokens(4096, 512) == 3584
    assert room_tokens(1000, 4096) == 750
    assert Chatting().ask("x" * 800, reserve=100_000).left_out == 0


@pytest.mark.parametrize(
    ("tokens", "context_length", "reserve", "warns"),
    [(849, 1000, 0, False), (850, 1000, 0, True), (764, 1000, 100, False), (765, 1000, 100, True),
     (5, 0, 0, False)],
)  # fmt: skip
def test_the_warning_comes_before_it_is_full(
    tokens: int, context_length: int, reserve: int, warns: bool
) -> None:
    sentence = warning(tokens, context_length, reserve)
    assert (sentence is not None) == warns
    if sentence:
        assert "oldest turns will no longer be sent; nothing is deleted" in sentence


def test_the_description_adds_up() -> None:
    chat = Chatting()
    for _ in range(20):
        chat.ask()
    left_out = chat.fitter.choose(
        chat.runtime, chat.conversation, Question(new_id(), chat.conversation.head, ""), SYSTEM, 100
    ).left_out
    text = describe(
        chat.runtime, chat.conversation, SYSTEM, [Attachment("n.txt", "x" * 60)], 100, chat.fitter
    )
    counts = [
        int(line.split()[0].replace(",", "")) for line in text.splitlines() if "tokens  " in line
    ]
    assert sum(counts[:-1]) == counts[-1] == 1000
    assert "60 tokens  file n.txt" in text
    assert "8 tokens  system prompt" in text
    assert f"{left_out} turns no longer sent, but still in this chat" in text
    assert "Nothing is deleted" in text
    too_much = [Attachment("n.txt", "x" * 1100)]
    assert "detach" in describe(chat.runtime, chat.conversation, SYSTEM, too_much, 100, chat.fitter)
