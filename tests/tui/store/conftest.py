"""Stores that open fast, and chats with everything in them that is hard to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimes.base import Sampling
from tui.conversation import Answer, Attachment, Chat, Entry, Question
from tui.store.chats import ChatStore
from tui.store.vault import Cost

PASSPHRASE = "correct horse battery staple"
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)

Open = Callable[..., ChatStore]
Written = dict[str, dict[str, Entry]]


@pytest.fixture(params=["plain", "encrypted"])
def passphrase(request: pytest.FixtureRequest) -> str | None:
    return PASSPHRASE if request.param == "encrypted" else None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats" / "chats.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Open]:
    """Return a function that opens the store at `path`; all are closed at the end."""
    opened: list[ChatStore] = []

    def open_(passphrase: str | None = None, at: Path | None = path) -> ChatStore:
        opened.append(ChatStore.open(at, passphrase, cost=CHEAP))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def hard_chat() -> tuple[Chat, list[Entry]]:
    """Return a chat with every kind of entry, two branches, and text that is hard to store."""
    sampling = Sampling(64, 0.5, 40, 0.9, 0.1, 1.1, 32, 7, ("\n\n", "</s>"), True)
    entries: list[Entry] = [
        Question("q1", None, 'NUL \0, ESC \x1b[31m, "quotes", é, 問題, 🥚, half a pair \udc80'),
        Answer("a1", "q1", "eleven minutes", "stop", "model", 3, 0.25, 88.5, at=2.0),
        Question("q2", "a1", "", (Attachment("notes.txt", "ﬁle\r\ntext", 4), Attachment("", ""))),
        Answer("a2", "q2", "cut", "length", "model", 1, None, None, at=4.0),
        Answer("a3", "q2", "again", "interrupted", at=5.0),
        Question("q3", "a1", "line\nfeeds\u2028and\u0085others", at=6.0),
    ]
    chat = Chat("c1", "Títle \udfff", 1.0, 7.5, "q3", "Be brief.\n", "cook", "model", sampling)
    return chat, entries


@pytest.fixture
def fill() -> Callable[[ChatStore], Written]:
    """Return a function that writes three chats, and returns their entries by chat and id."""
    return _fill


def _fill(store: ChatStore, chats: int = 3, turns: int = 4) -> Written:
    written: Written = {}
    for number in range(chats):
        chat = Chat(f"chat {number}", f"title {number}", made_at=number, changed_at=number)
        store.save_chat(chat)
        parent = None
        for turn in range(turns):
            text = f"secret words {number} {turn} " * (400 if turn == 1 else 3)
            question = Question(f"q{turn}", parent, text, at=100.0 + turn)
            answer = Answer(f"a{turn}", question.id, text.upper(), "stop", at=100.5 + turn)
            parent = answer.id
            for entry in (question, answer):
                store.save_entry(chat.id, entry)
                written.setdefault(chat.id, {})[entry.id] = entry
    return written
