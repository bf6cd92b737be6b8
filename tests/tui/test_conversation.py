from __future__ import annotations

from runtimes.base import Message, Sampling
from tui.conversation import Answer, Conversation, Turn
from tui.history import History


def test_a_turn_is_sent_with_what_went_before_it_only() -> None:
    conversation = Conversation("system")
    first, second, third = Turn("a"), Turn("b"), Turn("c")
    conversation.record(first, Answer("A", "stop"))
    conversation.record(second, Answer("B", "stopped"))
    before = [Message("system", "system"), Message("user", "a")]
    assert conversation.messages(first) == before
    assert [m.content for m in conversation.messages(second)] == ["system", "a", "A", "b"]
    assert [m.content for m in conversation.messages(third)] == ["system", "a", "A", "b", "B", "c"]


def test_recording_twice_replaces_the_answer() -> None:
    conversation, turn = Conversation(), Turn("a")
    conversation.record(turn, Answer("A", "stop"))
    conversation.record(turn, Answer("B", "stop"))
    assert [t.answer for t in conversation.turns] == [Answer("B", "stop")]


def test_equal_questions_are_different_turns() -> None:
    conversation = Conversation()
    for _ in range(2):
        conversation.record(Turn("a"), Answer("A", "stop"))
    assert len(conversation.turns) == 2


def test_only_a_fixed_seed_moves() -> None:
    turn = Turn("a")
    assert [turn.next_sampling(Sampling(seed=5)).seed for _ in range(3)] == [5, 6, 7]
    assert turn.next_sampling(Sampling()) == Sampling()


def test_history_keeps_the_draft_and_stops_at_both_ends() -> None:
    history = History()
    for text in ("a", "b", "b"):
        history.add(text)
    assert history.newer() is None
    assert [history.older("draft") for _ in range(3)] == ["b", "a", None]
    assert [history.newer() for _ in range(3)] == ["b", "draft", None]
