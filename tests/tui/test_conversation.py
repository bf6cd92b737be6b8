from __future__ import annotations

import random

import pytest

from runtimes.base import Message
from tui.conversation import (
    TITLE_CHARACTERS,
    Answer,
    Attachment,
    Conversation,
    Question,
    new_id,
    title_of,
)
from tui.fences import closed, code_blocks
from tui.history import History


def ask(conversation: Conversation, text: str, parent: str | None = None) -> Question:
    question = Question(new_id(), parent, text)
    conversation.put(question)
    return question


def answer(conversation: Conversation, question: Question, text: str) -> Answer:
    entry = Answer(new_id(), question.id, text, "stop")
    conversation.put(entry)
    return entry


def test_a_question_is_sent_with_what_went_before_it_only() -> None:
    conversation = Conversation()
    first = ask(conversation, "a")
    one = answer(conversation, first, "A")
    second = ask(conversation, "b", one.id)
    two = answer(conversation, second, "B")
    third = Question(new_id(), two.id, "c")
    before = [Message("system", "s"), Message("user", "a")]
    assert conversation.messages(first, "s") == before
    texts = [message.content for message in conversation.messages(third)]
    assert texts == ["a", "A", "b", "B", "c"]
    texts = [message.content for message in conversation.messages(third, "s", left_out=1)]
    assert texts == ["s", "b", "B", "c"]
    roles = [message.role for message in conversation.messages(third, "s")]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_edits_and_second_answers_are_branches_and_nothing_is_lost() -> None:
    conversation = Conversation()
    first = ask(conversation, "a")
    one = answer(conversation, first, "A")
    follow = ask(conversation, "b", one.id)
    two = answer(conversation, first, "A2")
    assert conversation.turns() == [(first, two)]
    edited = ask(conversation, "a, in other words")
    three = answer(conversation, edited, "A3")
    assert conversation.turns() == [(edited, three)]
    assert conversation.versions(first) == [first, edited]
    assert conversation.answers(first) == [one, two]
    assert set(conversation.turn_versions(edited)) == {(first, one), (first, two), (edited, three)}
    conversation.choose(one)
    assert conversation.turns() == [(first, one), (follow, None)]
    assert len(conversation) == 6


def test_an_answer_that_grows_is_replaced_where_it_stands() -> None:
    conversation = Conversation()
    first = ask(conversation, "a")
    growing = Answer("g", first.id, "A")
    conversation.put(growing)
    other = answer(conversation, first, "B")
    conversation.put(Answer("g", first.id, "AA", "stop"))
    assert conversation.head == other.id
    assert conversation.entry("g") == Answer(
        "g", first.id, "AA", "stop", at=conversation.entry("g").at
    )
    assert len(conversation) == 3


def test_a_question_is_taken_back() -> None:
    conversation = Conversation()
    first = ask(conversation, "a")
    one = answer(conversation, first, "A")
    conversation.remove(ask(conversation, "b", one.id))
    assert conversation.turns() == [(first, one)]


def test_a_stored_tree_is_read_at_its_head_or_its_newest_entry() -> None:
    entries = [
        Question("q", None, "a", at=1.0),
        Answer("x", "q", "A", at=2.0),
        Answer("y", "q", "B", at=3.0),
    ]
    for order in (entries, entries[::-1]):
        assert Conversation(order, "x").head == "x"
        assert Conversation(order, "gone").head == "y"
        assert Conversation(order).entries() == entries
    assert Conversation().turns() == []


def test_damaged_trees_do_not_hang() -> None:
    circle = [Question("q", "a", "?", at=1.0), Answer("a", "q", "!", at=2.0)]
    conversation = Conversation(circle)
    assert conversation.turns() == [tuple(circle)]
    conversation.choose(circle[0])
    orphan = Conversation([Answer("a", "missing", "!", at=1.0), Question("q", "a", "?", at=2.0)])
    assert [turn.question.id for turn in orphan.turns()] == ["q"]


def test_random_trees_keep_every_entry_and_alternate() -> None:
    draw = random.Random(3)
    for _ in range(50):
        conversation, parents = Conversation(), list[str | None]([None])
        for _ in range(30):
            question = ask(conversation, "q", draw.choice(parents))
            parents += [answer(conversation, question, "a").id for _ in range(draw.randrange(3))]
        again = Conversation(conversation.entries(), conversation.head)
        assert again.turns() == conversation.turns()
        for entry in conversation.entries():
            again.choose(entry)
            shown = {e for turn in again.turns() for e in turn if e is not None}
            assert entry in shown


def test_attachments_come_first_in_a_fence_that_they_cannot_close() -> None:
    attachment = Attachment("n.md", "a\n````\nb\n")
    content = Question("q", None, "what?", (attachment, Attachment("m", "x"))).content
    assert content == "n.md:\n`````\na\n````\nb\n`````\n\nm:\n```\nx\n```\n\nwhat?"
    assert code_blocks(content) == ["a\n````\nb\n", "x\n"]


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What is an egg?", "What is an egg?"),
        ("\n\n  two \t words \nmore", "two words"),
        ("", ""),
        ("x" * 100, "x" * 59 + "…"),
        ("word " * 30, "word " * 10 + "word…"),
    ],
)
def test_titles_are_the_first_line_shortened(question: str, title: str) -> None:
    assert title_of(question) == title
    assert len(title) <= TITLE_CHARACTERS


@pytest.mark.parametrize(
    ("ending", "text", "note"),
    [
        ("stop", "x", ""),
        ("stop", " ", "answered nothing"),
        ("stopped", "x", "stopped"),
        ("interrupted", "x", "interrupted"),
        ("length", "x", "7 tokens"),
        ("context", "x", "context is full"),
    ],
)
def test_how_an_answer_ended_is_told(ending, text: str, note: str) -> None:
    told = Answer("a", "q", text, ending, tokens=7).note()
    assert note in told
    assert bool(told) == bool(note)


@pytest.mark.parametrize(
    ("text", "blocks", "end"),
    [
        ("no code `here`", [], ""),
        ("```\na\n\nb\n```", ["a\n\nb\n"], ""),
        ("~~~py\na\n```\n~~~\n```\nb\n", ["a\n```\n", "b\n"], "```"),
        ("````\n```\n````", ["```\n"], ""),
        ("````\n```\n", ["```\n"], "````"),
        ("  ```\n  a\n    b\n c\n  ```", ["a\n  b\nc\n"], ""),
        ("``` not `a` fence\nx", [], ""),
        ("    indented\n", ["indented\n"], ""),
        ("```\n", [""], "```"),
        ("```\na\n``` x\n```", ["a\n``` x\n"], ""),
        ("1. First:\n   ```sh\n   ls\n   ```\n2. Then", ["ls\n"], ""),
        ("- ```\n  a\n", ["a\n"], ""),
    ],
)
def test_code_blocks_are_found_and_an_open_one_is_closed(
    text: str, blocks: list[str], end: str
) -> None:
    assert code_blocks(text) == blocks
    assert closed(text) == text + (f"\n{end}" if end else "")
    assert closed(closed(text)) == closed(text)
    heading = closed(text) + "\n\n# Heading\n\n```\nlast\n```\n"
    assert code_blocks(heading)[-1] == "last\n"


def test_history_keeps_the_draft_and_stops_at_both_ends() -> None:
    history = History()
    for text in ("a", "b", "b"):
        history.add(text)
    assert history.newer() is None
    assert [history.older("draft") for _ in range(3)] == ["b", "a", None]
    assert [history.newer() for _ in range(3)] == ["b", "draft", None]
