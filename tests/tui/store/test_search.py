"""Search finds what a plain comparison finds, in any script, and never goes stale."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace

import pytest

from tui.conversation import Answer, Attachment, Chat, Question
from tui.store.chats import ChatStore

Open = Callable[..., ChatStore]


def test_titles_questions_answers_and_attachments(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)
    file = Attachment("Recipe.txt", "Simmer the LENTILS")
    store.save_entry("c", Question("q", None, "How long do eggs boil?", (file,), at=1.0))
    store.save_entry("c", Answer("a", "q", "Eleven minutes at sea level", at=2.0))
    store.save_chat(replace(store.chats()[0], title="Kitchen eggs", changed_at=3.0))
    found = {
        words: [(hit.entry_id, hit.at) for hit in store.search(words)]
        for words in ("eggs", "lentils", "recipe.TXT", "eleven", "boil eggs", "eggs eleven", " ")
    }
    assert found == {
        "eggs": [(None, 3.0), ("q", 1.0)],
        "lentils": [("q", 1.0)],
        "recipe.TXT": [("q", 1.0)],
        "eleven": [("a", 2.0)],
        "boil eggs": [("q", 1.0)],
        "eggs eleven": [],
        " ": [],
    }
    hit = store.search("eleven")[0]
    assert (hit.chat_id, hit.title) == ("c", "Kitchen eggs")
    assert hit.excerpt == "Eleven minutes at sea level"


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("Die STRASSE ist lang", "straße", True),
        ("ﬁne ﬂour", "fine flour", True),
        ("\uff21\uff22\uff23 \uff11\uff12\uff13", "abc 123", True),
        ("cafe\u0301", "CAFÉ", True),
        ("我想煮鸡蛋要多久", "鸡蛋", True),
        ("いろはにほへと", "はに", True),
        ("ต้มไข่กี่นาที", "ไข่", True),
        ("one two\n  three", '"two three"', True),
        ("one two three", '"one three"', False),
        ("one two three", '"two thr', True),
        ("a.b", "a?b", False),
        ("NUL\0here and half a pair \ud800", "here pair", True),
        ("İstanbul", "istanbul", False),  # Unicode's full folding keeps the dot
        ("Ωmega", "ωMEGA", True),
    ],
)
def test_scripts_and_phrases(open_store: Open, text: str, words: str, found: bool) -> None:
    store = open_store(at=None)
    store.save_entry("c", Question("q", None, text))
    assert bool(store.search(words)) == found


def test_the_excerpt_shows_the_first_match(open_store: Open) -> None:
    store = open_store(at=None)
    for number, filler in enumerate(("plain ", "ﬁﬁﬁ ", "é\u0301 ", "ß\n")):
        store.save_entry("c", Question(f"{number}", None, filler * 200 + "NEEDLE " + filler * 200))
    hits = store.search("needle")
    assert len(hits) == 4
    for hit in hits:
        assert "NEEDLE" in hit.excerpt
        assert hit.excerpt.startswith("…")
        assert hit.excerpt.endswith("…")
        assert len(hit.excerpt) <= 82
        assert hit.excerpt.isprintable()
    store.save_entry("c", Question("x", None, "\x1b[2J\x07bell \ud800"))
    assert store.search("bell")[0].excerpt.isprintable()


def test_search_stays_right_as_chats_change(open_store: Open, passphrase: str | None) -> None:
    """Against a plain loop over everything that is stored, after each of 150 random changes."""
    chance = random.Random(11)
    words = ["egg", "Ei", "œuf", "яйцо", "卵"]
    one, two = open_store(passphrase), open_store(passphrase)
    for step in range(150):
        store, other = chance.sample([one, two], 2)
        chat_id = f"c{chance.randrange(4)}"
        if chance.random() < 0.1:
            store.delete_chat(chat_id)
        else:
            text = " ".join(chance.choices(words, k=3))
            store.save_entry(chat_id, Question(f"q{chance.randrange(6)}", None, text, at=step))
        word = chance.choice(words)
        expected = {
            (chat.id, entry.id)
            for chat in other.chats()
            for entry in other.load(chat.id)[1]
            if unicodedata.normalize("NFKC", word.casefold()) in entry.text.casefold()
        }
        hits = other.search(word)
        assert {(hit.chat_id, hit.entry_id) for hit in hits} == expected
        assert [hit.at for hit in hits] == sorted((hit.at for hit in hits), reverse=True)


def test_the_limit_keeps_the_newest(open_store: Open) -> None:
    store = open_store(at=None)
    questions = [Question(f"q{n}", None, "same", at=float(n)) for n in range(30)]
    store.save_all(Chat("c"), questions)
    assert [hit.entry_id for hit in store.search("same", limit=3)] == ["q29", "q28", "q27"]
    store.save_all(Chat("long"), [Question(f"l{n}", None, "long") for n in range(1300)])
    store.warm()
    assert len(store.search("long", limit=9999)) == 1300
