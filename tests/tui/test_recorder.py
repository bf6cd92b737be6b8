from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import GateError, InputError
from runtimes.base import Sampling
from tui.conversation import Answer, Attachment, Conversation, Question, new_id
from tui.recorder import SAVE_EVERY_S, Recorder
from tui.store.chats import ChatStore
from tui.store.vault import Cost
from tui.timing import Timing

TIMING = Timing(3, 10, 0.5, 20.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> ChatStore:
    return ChatStore.open(None)


@pytest.fixture
def recorder(store: ChatStore) -> Recorder:
    return Recorder(store, model="tiny", system="s", clock=Clock())


def question(recorder: Recorder, text: str = "why?") -> Question:
    return Question(new_id(), recorder.conversation.head, text)


def answer(recorder: Recorder, asked: Question, text: str = "because") -> Answer:
    recorder.begin(asked)
    return recorder.finish(Answer(recorder.answer_id, asked.id, text, "stop", "tiny"))


def stored(store: ChatStore, chat_id: str) -> Conversation:
    chat, entries, damage = store.load(chat_id)
    assert damage == []
    return Conversation(entries, chat.head)


def fill_disk(store: ChatStore) -> None:
    connection = store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")


def empty_disk(store: ChatStore) -> None:
    store._database.connection.execute("PRAGMA max_page_count=1000000")


def test_an_empty_chat_is_never_stored(store: ChatStore, recorder: Recorder) -> None:
    recorder.rename("title")
    recorder.set_model("other")
    recorder.set_system("t", "p")
    recorder.set_sampling(Sampling(seed=1))
    recorder.start()
    recorder.close()
    assert store.chats() == []
    assert (recorder.chat.system, recorder.chat.model) == ("s", "other")


def test_the_question_is_stored_before_the_answer(store: ChatStore, recorder: Recorder) -> None:
    asked = question(recorder, "  \n What is\tan egg? \nplease")
    recorder.begin(asked)
    (chat,) = store.chats()
    assert (chat.title, chat.head, chat.system) == ("What is an egg?", asked.id, "s")
    assert stored(store, chat.id).turns() == [(asked, None)]
    assert store.note("open") == chat.id


def test_an_answer_grows_in_the_store_and_ends_there(store: ChatStore, recorder: Recorder) -> None:
    clock = recorder._clock
    assert isinstance(clock, Clock)
    asked = question(recorder)
    recorder.begin(asked)
    recorder.progress("b", TIMING)
    assert len(stored(store, recorder.chat.id)) == 1  # too soon
    clock.now += SAVE_EVERY_S
    recorder.progress("be", TIMING)
    clock.now += SAVE_EVERY_S / 2
    recorder.progress("beca", TIMING)
    (turn,) = stored(store, recorder.chat.id).turns()
    assert turn.answer is not None
    assert (turn.answer.text, turn.answer.ending) == ("be", "interrupted")
    assert (turn.answer.tokens, turn.answer.first_token_s) == (3, 0.5)
    done = recorder.finish(Answer(new_id(), asked.id, "because", "stop", "other"))
    assert done.id == turn.answer.id
    assert stored(store, recorder.chat.id).turns() == [(asked, done)]
    assert store.chats()[0].model == "other"
    recorder.progress("late", TIMING)
    assert recorder.conversation.turns() == [(asked, done)]


def test_a_second_answer_leaves_the_first_one_at_the_head_until_it_has_a_word(
    store: ChatStore, recorder: Recorder
) -> None:
    asked = question(recorder)
    first = answer(recorder, asked)
    recorder.begin(asked, "chosen-id")
    assert stored(store, recorder.chat.id).turns() == [(asked, first)]
    second = recorder.finish(Answer("x", asked.id, "again", "stop"))
    assert second.id == "chosen-id"
    held = stored(store, recorder.chat.id)
    assert held.turns() == [(asked, second)]
    assert len(held) == 3


def test_a_question_that_is_withdrawn_leaves_no_chat(store: ChatStore, recorder: Recorder) -> None:
    asked = question(recorder)
    recorder.begin(asked)
    recorder.withdraw(asked)
    assert store.chats() == []
    assert len(recorder.conversation) == 0
    assert store.note("open") is None
    recorder.withdraw(asked)  # once more: nothing


def test_withdrawing_goes_back_to_the_branch_that_was_read(
    store: ChatStore, recorder: Recorder
) -> None:
    first = question(recorder)
    one = answer(recorder, first)
    other = Question(new_id(), None, "in other words")
    recorder.begin(other)
    recorder.withdraw(other)
    assert recorder.conversation.turns() == [(first, one)]
    assert stored(store, recorder.chat.id).turns() == [(first, one)]
    recorder.begin(first)
    recorder.withdraw(first)  # it has an answer: it stays
    assert recorder.conversation.turns() == [(first, one)]


@pytest.mark.parametrize("passphrase", [None, "words"])
def test_a_withdrawn_question_is_gone_from_the_file(tmp_path: Path, passphrase: str | None) -> None:
    path = tmp_path / "chats.db"
    store = ChatStore.open(path, passphrase, cost=Cost(64, 1, 1))
    recorder = Recorder(store)
    first = question(recorder)
    one = answer(recorder, first)
    recorder.begin(question(recorder, "the heron eats at nine"))
    before = pieces(path)
    asked = recorder.conversation.turns()[-1].question
    recorder.withdraw(asked)
    assert b"heron" not in contents(path)
    (gone,) = before.keys() - pieces(path).keys()  # the one row that was removed
    assert before[gone][-40:] not in contents(path)
    store.close()  # as a kill would: without `recorder.close`
    store = ChatStore.open(path, passphrase)
    again = Recorder(store)
    again.open(recorder.chat.id)
    assert again.conversation.turns() == [(first, one)]
    assert len(again.conversation) == 2
    assert again.damage == []
    store.close()


def contents(path: Path) -> bytes:
    """Return all that lies on the disk of a store."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def pieces(path: Path) -> dict[int, bytes]:
    """Return the rows of a store, as another program reads them."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT id, box FROM records"))


def test_a_question_that_another_window_answered_is_not_withdrawn(store: ChatStore) -> None:
    one, two = Recorder(store), Recorder(store)
    answer(one, question(one))
    asked = question(one, "and now?")
    one.begin(asked)
    two.open(one.chat.id)
    two.begin(asked)
    two.finish(Answer(new_id(), asked.id, "later", "stop"))
    one.withdraw(asked)
    one.save_head()  # and nothing is in the way of what comes next
    _, entries, damage = store.load(one.chat.id)
    assert (len(entries), damage) == (4, [])


def test_a_full_disk_only_delays_a_withdrawal(store: ChatStore, recorder: Recorder) -> None:
    answer(recorder, question(recorder))
    asked = question(recorder, "and now?")
    recorder.begin(asked)
    store._database.connection.execute("PRAGMA query_only=ON")
    with pytest.raises(InputError):
        recorder.withdraw(asked)
    store._database.connection.execute("PRAGMA query_only=OFF")
    assert len(stored(store, recorder.chat.id)) == 3
    recorder.save_head()
    assert len(stored(store, recorder.chat.id)) == 2


def test_a_save_is_one_commit_and_says_once_which_chat_is_open(
    store: ChatStore, recorder: Recorder
) -> None:
    commits: list[str] = []
    store._database.connection.set_trace_callback(
        lambda statement: commits.append(statement) if statement == "COMMIT" else None
    )
    asked = question(recorder)
    recorder.begin(asked)
    assert (len(commits), store.note("open")) == (1, recorder.chat.id)
    store.set_note("open", "of another window")
    recorder.finish(Answer(new_id(), asked.id, "because", "stop"))
    assert len(commits) == 3
    assert store.note("open") == "of another window"


def test_a_chat_is_opened_as_it_was_left(store: ChatStore, recorder: Recorder) -> None:
    first = question(recorder)
    answer(recorder, first)
    recorder.set_sampling(Sampling(temperature=0.5))
    recorder.rename(" a  title ")
    chat, turns = recorder.chat, recorder.conversation.turns()
    recorder.start()
    assert len(recorder.conversation) == 0
    assert store.note("open") is None
    recorder.open(chat.id)
    assert recorder.chat.title == "a title"
    assert recorder.chat.sampling == Sampling(temperature=0.5)
    assert recorder.conversation.turns() == turns
    assert store.note("open") == chat.id
    before = recorder.chat
    with pytest.raises(InputError):
        recorder.open("0" * 32)
    assert recorder.chat == before


def test_the_branch_that_is_read_is_kept(store: ChatStore, recorder: Recorder) -> None:
    first = question(recorder)
    one = answer(recorder, first)
    answer(recorder, first)
    recorder.conversation.choose(one)
    recorder.save_head()
    assert stored(store, recorder.chat.id).turns() == [(first, one)]


def test_the_open_chat_is_noted_until_a_clean_end(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    store = ChatStore.open(path)
    recorder = Recorder(store)
    answer(recorder, question(recorder))
    recorder.save_draft("half a thou")
    store.close()  # as a kill would: without `recorder.close`
    store = ChatStore.open(path)
    again = Recorder(store)
    assert again._store.note("draft") == "half a thou"
    again.open(store.note("open") or "")
    assert again.chat.id == recorder.chat.id
    again.save_draft("")
    again.close()
    assert (store.note("open"), store.note("draft")) == (None, None)
    store.close()


def test_a_question_takes_the_place_of_the_draft(store: ChatStore, recorder: Recorder) -> None:
    recorder.save_draft("what is")
    asked = question(recorder)
    recorder.begin(asked)
    assert not store.note("draft")
    recorder.save_draft("and then")
    recorder.begin(asked)  # an old one: what is typed is not it
    assert store.note("draft") == "and then"


def test_the_end_of_one_chat_leaves_the_note_of_another(store: ChatStore) -> None:
    one, two = Recorder(store), Recorder(store)
    answer(one, question(one))
    answer(two, question(two))
    one.close()
    assert store.note("open") == two.chat.id


def test_what_a_dialog_did_is_noticed(store: ChatStore, recorder: Recorder) -> None:
    recorder.refresh()
    answer(recorder, question(recorder))
    chat = recorder.chat
    store.save_chat(replace(chat, title="renamed elsewhere"))
    recorder.refresh()
    assert recorder.chat.title == "renamed elsewhere"
    store.delete_chat(chat.id)
    recorder.refresh()
    assert recorder.chat.id != chat.id
    assert len(recorder.conversation) == 0


def test_an_answer_to_a_chat_that_is_gone_is_dropped(store: ChatStore, recorder: Recorder) -> None:
    asked = question(recorder)
    recorder.begin(asked)
    recorder.delete()
    recorder.finish(Answer(new_id(), asked.id, "late", "stop"))
    recorder.progress("late", TIMING)
    assert store.chats() == []
    assert len(recorder.conversation) == 0


def test_a_full_disk_loses_nothing_that_is_held(store: ChatStore, recorder: Recorder) -> None:
    first = question(recorder)
    one = answer(recorder, first)
    fill_disk(store)
    second = question(recorder, "long " * 20_000)
    with pytest.raises(GateError):
        recorder.begin(second)
    with pytest.raises(GateError):
        recorder.finish(Answer("x", second.id, "two", "stop"))
    assert [turn.question for turn in recorder.conversation.turns()] == [first, second]
    assert stored(store, recorder.chat.id).turns() == [(first, one)]
    empty_disk(store)
    recorder.save_head()  # whatever is saved next
    assert stored(store, recorder.chat.id).turns() == recorder.conversation.turns()


def test_a_full_disk_keeps_the_chat_that_is_open_and_not_saved(
    store: ChatStore, recorder: Recorder
) -> None:
    fill_disk(store)
    with pytest.raises(GateError):
        recorder.begin(question(recorder, "long " * 20_000))
    with pytest.raises(GateError):
        recorder.start()
    assert len(recorder.conversation) == 1
    empty_disk(store)
    recorder.start()
    assert len(store.chats()) == 1


def test_a_chat_of_files_alone_has_a_title(store: ChatStore, recorder: Recorder) -> None:
    recorder.begin(Question(new_id(), None, "", (Attachment("notes.txt", "x"),)))
    assert store.chats()[0].title == "notes.txt"


def test_many_threads_may_save_at_once(store: ChatStore, recorder: Recorder) -> None:
    asked = question(recorder)
    recorder.begin(asked)
    calls = [
        lambda: recorder.rename("t"),
        lambda: recorder.progress("text", TIMING),
        lambda: recorder.set_sampling(Sampling()),
        recorder.save_head,
        recorder.refresh,
    ]
    threads = [threading.Thread(target=call) for call in calls * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = recorder.finish(Answer("x", asked.id, "text", "stop"))
    assert stored(store, recorder.chat.id).turns() == [(asked, done)]
