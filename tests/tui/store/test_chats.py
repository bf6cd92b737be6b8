"""What is saved comes back as it was: from the plain, the encrypted and the temporary store."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import GateError, InputError, PrivacyError
from tui.conversation import Answer, Chat, Conversation, Entry, Persona, Question
from tui.store.chats import ChatStore
from tui.store.presence import in_use, is_encrypted, lock_path
from tui.store.vault import Cost

PASSPHRASE = "correct horse battery staple"
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
Open = Callable[..., ChatStore]
HardChat = tuple[Chat, list[Entry]]


def test_a_chat_comes_back_as_it_was(
    open_store: Open, passphrase: str | None, hard_chat: HardChat
) -> None:
    chat, entries = hard_chat
    store = open_store(passphrase)
    for entry in entries:
        store.save_entry(chat.id, entry)
    store.save_chat(chat)
    store.close()
    again = open_store(passphrase)
    assert again.chats() == [chat]
    assert again.load(chat.id) == (chat, entries, [])
    assert again.encrypted == (passphrase is not None)
    turns = Conversation(again.load(chat.id)[1], chat.head).turns()
    assert [turn.question.id for turn in turns] == ["q1", "q3"]


def test_a_temporary_store_has_no_file(open_store: Open, hard_chat: HardChat) -> None:
    chat, entries = hard_chat
    store = open_store(at=None)
    store.save_all(chat, entries)
    assert store.load(chat.id) == (chat, entries, [])
    assert store.path is None
    assert not store.encrypted
    store.delete_chat(chat.id)
    assert store.chats() == []


def test_a_new_entry_becomes_the_head_and_a_later_version_of_it_replaces_it(
    open_store: Open, passphrase: str | None
) -> None:
    store = open_store(passphrase)
    question = Question("q", None, "how?", at=5.0)
    partial = Answer("a", "q", "so", "interrupted", at=6.0)
    store.save_entry("c", question)
    store.save_entry("c", partial)
    store.save_chat(replace(store.chats()[0], head="q"))
    store.save_entry("c", replace(partial, text="so and so", ending="stop"))
    chat, entries, sentences = store.load("c")
    assert chat.head == "q"
    assert entries == [question, replace(partial, text="so and so", ending="stop")]
    assert not sentences


def test_the_chat_changed_last_comes_first(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)
    for number in (2, 1, 3):
        store.save_chat(Chat(f"c{number}", changed_at=float(number)))
    assert [chat.id for chat in store.chats()] == ["c3", "c2", "c1"]
    store.save_entry("c1", Question("q", None, "new", at=9.0))
    assert [chat.id for chat in store.chats()] == ["c1", "c3", "c2"]


def test_personas_and_notes(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)
    store.save_persona(Persona("pirate", "Arr."))
    store.save_persona(Persona("cook", "old"))
    store.save_persona(Persona("cook", "Boil."))
    store.set_note("draft", "half a senten\udc80")
    store.set_note("open", "c1")
    store.set_note("open", None)
    store.close()
    again = open_store(passphrase)
    assert again.personas() == [Persona("cook", "Boil."), Persona("pirate", "Arr.")]
    assert again.note("draft") == "half a senten\udc80"
    assert again.note("open") is None
    again.delete_persona("cook")
    again.delete_persona("nobody")
    assert again.personas() == [Persona("pirate", "Arr.")]


def test_a_chat_that_is_not_there(open_store: Open) -> None:
    store = open_store()
    store.delete_chat("nothing")
    with pytest.raises(InputError, match="not in the store"):
        store.load("nothing")


def test_wrong_and_missing_passphrases(open_store: Open, path: Path) -> None:
    open_store(PASSPHRASE).close()
    before = path.read_bytes()
    with pytest.raises(PrivacyError, match="wrong"):
        open_store(PASSPHRASE + " ")
    with pytest.raises(PrivacyError, match="empty"):
        open_store("")
    with pytest.raises(InputError, match="is encrypted"):
        open_store(None)
    assert path.read_bytes() == before
    assert not in_use(path)


def test_a_passphrase_for_a_plain_store_is_refused(open_store: Open) -> None:
    open_store(None).close()
    with pytest.raises(InputError, match="not encrypted"):
        open_store(PASSPHRASE)


def test_a_passphrase_opens_however_its_accents_are_typed(open_store: Open) -> None:
    open_store("caf\u00e9").close()
    assert open_store("cafe\u0301").encrypted


def test_changing_the_passphrase(
    open_store: Open, fill: Callable[[ChatStore], Any], path: Path
) -> None:
    store = open_store(PASSPHRASE)
    written = fill(store)
    store.set_note("draft", "kept")
    sealed_before = path.read_bytes()
    store.change_passphrase("another", cost=CHEAP)
    assert {e.id: e for e in store.load("chat 1")[1]} == written["chat 1"]
    store.close()
    with pytest.raises(PrivacyError, match="wrong"):
        open_store(PASSPHRASE)
    again = open_store("another")
    assert {chat: {e.id: e for e in again.load(chat)[1]} for chat in written} == written
    assert again.note("draft") == "kept"
    assert again.damage == []
    assert shared_pieces(sealed_before, path) == []


def shared_pieces(before: bytes, path: Path) -> list[bytes]:
    """Return what of 16 random-looking bytes of the old file is still in the new one."""
    after = path.read_bytes()
    pieces = (before[at : at + 16] for at in range(4096 * 4, len(before) - 16, 64))
    return [piece for piece in pieces if len(set(piece)) > 10 and piece in after]


def test_an_open_window_notices_that_the_passphrase_changed(open_store: Open) -> None:
    first, second = open_store(PASSPHRASE), open_store(PASSPHRASE)
    second.save_chat(Chat("c"))
    first.change_passphrase("another", cost=CHEAP)
    with pytest.raises(PrivacyError, match="changed by another program"):
        second.save_chat(Chat("d"))
    assert [chat.id for chat in first.chats()] == ["c"]


def test_deleting_leaves_no_trace_in_the_file(open_store: Open, path: Path) -> None:
    store = open_store()
    for number in range(40):  # enough for rows to move between pages
        for size in (1, 30, 300, 3000):
            text = f"<marker {number}:{size}>" * size  # long: row numbers and tags are random
            store.save_entry(f"c{number}", Question(f"q{size}", None, text))
    for number in range(0, 40, 2):
        store.delete_chat(f"c{number}")
    found = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for number in range(40):
        assert (f"<marker {number}:".encode() in found) == (number % 2 == 1), number
    assert len(store.chats()) == 20


def test_deleting_leaves_no_sealed_bytes_in_the_file(open_store: Open, path: Path) -> None:
    store = open_store(PASSPHRASE)
    store.save_entry("kept", Question("q", None, "kept"))
    store.save_entry("gone", Question("q", None, "gone " * 900))
    store._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    row = store._shelf.row_of("entry", "gone", "q")
    box = store._database.get(row)
    assert box is not None
    assert box[-600:] in path.read_bytes()
    store.delete_chat("gone")
    found = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not [at for at in range(0, len(box) - 12, 12) if box[at : at + 12] in found]


def test_only_a_message_at_an_end_can_be_removed(
    open_store: Open, passphrase: str | None, hard_chat: HardChat
) -> None:
    store = open_store(passphrase)
    chat, entries = hard_chat
    store.save_all(chat, entries)
    with pytest.raises(InputError, match="another one follows"):
        store.delete_entry(chat.id, "q2")
    store.delete_entry(chat.id, "a3")  # beside the head
    store.delete_entry(chat.id, "q3")  # the head
    store.delete_entry(chat.id, "q3")
    store.delete_entry("nothing", "q3")
    held, left, damage = store.load(chat.id)
    assert [entry.id for entry in left] == ["q1", "a1", "q2", "a2"]
    assert (held.head, damage) == ("a1", [])


def test_a_removed_message_leaves_no_copy_when_the_store_is_closed(
    open_store: Open, path: Path
) -> None:
    """Among many rows, SQLite has moved some to other pages and left copies behind."""
    store = open_store()
    chance = random.Random(1)
    for chat in range(20):  # rows of many sizes: those move most
        for number in range(chat * 40, chat * 40 + 40, 8):
            numbers = range(number, number + 8)
            texts = [f"heron number {n}. " * chance.randrange(1, 60) for n in numbers]
            entries = [Question(f"q{n}", None, t) for n, t in zip(numbers, texts, strict=True)]
            store.save_all(Chat(f"c{chat}"), entries)
    removed = range(0, 800, 3)
    for number in removed:
        store.delete_entry(f"c{number // 40}", f"q{number}")
    store.close()
    written = path.read_bytes()
    assert b"heron number 1. " in written
    assert [number for number in removed if b"heron number %d. " % number in written] == []


def test_notes_are_saved_with_a_chat(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)
    store.save_all(Chat("c"), [], {"open": "c", "other": "x"})
    assert (store.note("open"), store.note("other")) == ("c", "x")


@pytest.mark.parametrize("when", ["open", "closed", "killed"])
def test_no_plaintext_is_on_the_disk(tmp_path: Path, when: str) -> None:
    program = f"""
import os, sys
from pathlib import Path
from tui.store.chats import ChatStore
from tui.store.vault import Cost
from tui.conversation import *
store = ChatStore.open(Path(sys.argv[1]) / "chats" / "private.db", {PASSPHRASE!r},
                       cost=Cost(8, 1, 1))
store.save_chat(Chat("sesame-chat", "sesame-title", 1.0, 2.0, None, "sesame-system",
                     "sesame-persona", "sesame-model"))
for number in range(30):
    file = Attachment("sesame-name", "sesame-file " * 600)
    store.save_entry("sesame-chat", Question(f"sesame-{{number}}", None, "sesame-q", (file,)))
store.save_persona(Persona("sesame-p", "sesame-text"))
store.set_note("sesame-note", "sesame-value")
assert store.search("sesame")
store.delete_chat("sesame-none")
store.change_passphrase("another", cost=Cost(8, 1, 1))
store.save_entry("sesame-chat", Question("sesame-z", None, "sesame-again"))
if {when!r} == "closed":
    store.close()
print("ready", flush=True)
if {when!r} == "killed":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        words, cwd=tmp_path, env=temporary_folder(tmp_path), stdin=pipe, stdout=pipe, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    if when == "killed":
        child.wait()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.stat().st_size > 100_000 for file in files)
    for file in files:
        assert b"sesame" not in file.read_bytes(), file
    child.communicate("")


def temporary_folder(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])}


def test_the_files_are_for_their_owner_alone(open_store: Open, path: Path) -> None:
    store = open_store()
    store.save_chat(Chat("c"))
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"chats.db", "chats.db-wal", "chats.db-shm", "chats.db.lock"}
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_presence(open_store: Open, path: Path, tmp_path: Path) -> None:
    assert not in_use(path)
    assert is_encrypted(path) is None
    first, second = open_store(PASSPHRASE), open_store(PASSPHRASE)
    first.close()
    assert in_use(path)
    second.close()
    assert not in_use(path)
    assert is_encrypted(path) is True
    plain = tmp_path / "plain.db"
    open_store(at=plain).close()
    assert is_encrypted(plain) is False
    (tmp_path / "other").write_bytes(b"x" * 9999)
    assert is_encrypted(tmp_path / "other") is None


def test_a_store_that_is_being_wiped_is_not_opened(open_store: Open, path: Path) -> None:
    import fcntl

    open_store().close()
    with lock_path(path).open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(GateError, match="being removed"):
            open_store()


def test_threads_share_a_store(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)

    def write(name: str) -> None:
        for number in range(15):
            store.save_entry(name, Question(f"{number}", None, f"{name} {number}"))
            assert store.search(f'"{name} {number}"')

    threads = [threading.Thread(target=write, args=(f"thread-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(store.load(f"thread-{n}")[1]) for n in range(4)) == [15] * 4


def test_two_processes_write_at_once(open_store: Open, path: Path, passphrase: str | None) -> None:
    store = open_store(passphrase)
    program = f"""
import sys
from pathlib import Path
from tui.store.chats import ChatStore
from tui.conversation import *
store = ChatStore.open(Path({str(path)!r}), {passphrase!r})
for number in range(40):
    store.save_entry(sys.argv[1], Question(f"q{{number}}", None, "from a child"))
    store.save_entry("shared", Question(f"{{sys.argv[1]}} {{number}}", None, "x"))
"""
    children = [
        subprocess.Popen([sys.executable, "-c", program, name], env=temporary_folder(path.parent))
        for name in ("one", "two")
    ]
    for number in range(40):
        store.save_entry("shared", Question(f"parent {number}", None, "x"))
    assert [child.wait() for child in children] == [0, 0]
    assert {chat.id for chat in store.chats()} == {"one", "two", "shared"}
    assert len(store.load("shared")[1]) == 120
    assert len(store.load("one")[1]) == 40
    assert len(store.search("from a child", limit=999)) == 80


def test_a_full_disk_loses_nothing_earlier(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)
    store.save_entry("c", Question("q1", None, "earlier"))
    connection = store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(GateError, match="full"):
        store.save_entry("c", Question("q2", None, "x" * 99_999))
    assert [entry.id for entry in store.load("c")[1]] == ["q1"]
    connection.execute("PRAGMA max_page_count=100000")
    store.save_entry("c", Question("q2", None, "x" * 99_999))
    assert [entry.id for entry in store.load("c")[1]] == ["q1", "q2"]


def test_a_file_size_limit_is_one_sentence(path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from edgekit.errors import GateError
from tui.store.chats import ChatStore
from tui.conversation import *
store = ChatStore.open(Path(sys.argv[1]))
store.save_entry("c", Question("q1", None, "earlier"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.save_entry("c", Question("q2", None, "x" * 999_999))
except GateError as error:
    print(error.message)
print(len(store.load("c")[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env=temporary_folder(path.parent.parent),
        capture_output=True,
        text=True,
        check=True,
    )
    sentence, entries = done.stdout.splitlines()
    assert str(path) in sentence
    assert entries == "1"


@pytest.mark.parametrize("place", ["/sys/edgekit/chats.db", "/proc/edgekit/chats.db"])
def test_a_folder_that_cannot_be_written_is_one_sentence(place: str) -> None:
    with pytest.raises(InputError, match="edgekit"):
        ChatStore.open(Path(place))


def test_a_folder_where_a_store_should_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        ChatStore.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"):
        ChatStore.open(tmp_path / "file" / "chats.db")
