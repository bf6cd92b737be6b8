"""Damaged and hostile files: a sentence, never a traceback, and nothing lost without a word."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.errors import GateError, InputError, PrivacyError
from tui.conversation import Chat, Entry, Question
from tui.store import vault
from tui.store.chats import ChatStore
from tui.store.rescue import rescue
from tui.store.sealing import DamagedError
from tui.store.vault import Cost

PASSPHRASE = "correct horse battery staple"
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
Written = dict[str, dict[str, Entry]]
Open = Callable[..., ChatStore]


@pytest.fixture
def written(
    open_store: Open, passphrase: str | None, fill: Callable[[ChatStore], Written]
) -> Written:
    store = open_store(passphrase)
    written = fill(store)
    store.close()
    return written


def edit(path: Path, *statements: str) -> None:
    """Change a store as an attacker with SQLite can."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema=ON")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def nothing_lost_silently(store: ChatStore, written: Written) -> None:
    """Assert that each entry is there as it was, or that a sentence says that something is not."""
    damage = store.damage
    listed = {chat.id for chat in store.chats()}
    assert damage or listed == written.keys()
    for chat_id in listed:
        _, entries, sentences = store.load(chat_id)
        for entry in entries:
            assert entry == written[chat_id][entry.id]
        assert sentences or damage or len(entries) == len(written[chat_id])
    store.search("secret words")


@pytest.mark.parametrize("change", ["delete", "swap", "old version"])
def test_a_record_that_was_tampered_with_is_noticed(
    open_store: Open, passphrase: str | None, written: Written, path: Path, change: str
) -> None:
    store = open_store(passphrase)
    first, second = (store._shelf.row_of("entry", "chat 1", name) for name in ("q2", "a2"))
    old = store._database.get(first)
    store.save_entry("chat 1", Question("q2", "a1", "newer", at=102.0))
    store.close()
    if change == "delete":
        edit(path, f"DELETE FROM records WHERE id={first}")
    elif change == "swap":
        edit(
            path,
            f"UPDATE records SET id=-1 WHERE id={first}",
            f"UPDATE records SET id={first} WHERE id={second}",
            f"UPDATE records SET id={second} WHERE id=-1",
        )
    else:
        assert old is not None
        edit(path, f"UPDATE records SET box=x'{old.hex()}' WHERE id={first}")
    again = open_store(passphrase)
    _, entries, sentences = again.load("chat 1")
    lost = {"q2", "a2"} if change == "swap" else {"q2"}
    assert {entry.id for entry in entries} == written["chat 1"].keys() - lost
    assert len(sentences) == len(lost)
    assert sentences[0].startswith("message 5 of 8 is left out: ")
    assert again.load("chat 0")[2] == []
    hits = again.search('"secret words 1"', limit=99)
    assert {hit.entry_id for hit in hits} == written["chat 1"].keys() - lost


def test_a_damaged_chat_record_is_rebuilt_from_its_entries_and_its_bytes_are_kept(
    open_store: Open, passphrase: str | None, written: Written, path: Path
) -> None:
    store = open_store(passphrase)
    row = store._shelf.row_of("chat", "chat 2")
    store.close()
    edit(path, f"UPDATE records SET box=x'0123456789abcdef' WHERE id={row}")
    again = open_store(passphrase)
    assert len(again.damage) == 1
    assert {chat.id for chat in again.chats()} == written.keys()
    chat, entries, sentences = again.load("chat 2")
    assert {entry.id: entry for entry in entries} == written["chat 2"]
    assert "facts of this chat" in sentences[0]
    assert chat.title.startswith("secret words 2 0")
    again.save_chat(chat)
    again.close()
    last = open_store(passphrase)
    assert last.damage == []
    assert last.load("chat 2") == (chat, entries, [])
    with sqlite3.connect(path) as connection:
        boxes = {box for (box,) in connection.execute("SELECT box FROM records")}
    assert bytes.fromhex("0123456789abcdef") in boxes


@pytest.mark.parametrize("change", ["DELETE FROM records WHERE id=0", "overwrite"])
def test_without_the_root_everything_that_opens_is_there(
    open_store: Open, passphrase: str | None, written: Written, path: Path, change: str
) -> None:
    edit(path, "UPDATE records SET box=x'00' WHERE id=0" if change == "overwrite" else change)
    store = open_store(passphrase)
    assert "list of chats is damaged" in store.damage[0]
    for chat_id in written:
        assert {entry.id: entry for entry in store.load(chat_id)[1]} == written[chat_id]
    store.save_chat(Chat("new"))
    store.close()
    again = open_store(passphrase)
    assert again.damage == []
    assert {chat.id for chat in again.chats()} == {*written, "new"}


def test_changing_the_passphrase_keeps_what_is_damaged_and_goes_on_reporting_it(
    open_store: Open, fill: Callable[[ChatStore], Written], path: Path
) -> None:
    store = open_store(PASSPHRASE)
    written = fill(store)
    row = store._shelf.row_of("entry", "chat 0", "a3")
    chat_row = store._shelf.row_of("chat", "chat 1")
    store.close()
    edit(path, f"UPDATE records SET box=x'abcd' WHERE id IN ({row}, {chat_row})")
    store = open_store(PASSPHRASE)
    store.change_passphrase("another", cost=CHEAP)
    store.close()
    again = open_store("another")
    assert {entry.id for entry in again.load("chat 0")[1]} == written["chat 0"].keys() - {"a3"}
    assert len(again.load("chat 0")[2]) == 1
    assert {entry.id: entry for entry in again.load("chat 1")[1]} == written["chat 1"]


def test_every_flip_in_the_header_is_told_from_a_wrong_passphrase() -> None:
    header, _ = vault.new_sealed_header(PASSPHRASE, CHEAP)
    assert vault.is_header(header)
    for bit in range(len(header) * 8):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not vault.is_header(bytes(flipped))
    with pytest.raises(PrivacyError, match="wrong"):
        vault.unlock(header, PASSPHRASE.upper())


def test_one_damaged_header_is_no_harm_and_two_are_a_sentence(
    open_store: Open, passphrase: str | None, written: Written, path: Path
) -> None:
    edit(path, "UPDATE header SET box=zeroblob(99)")
    nothing_lost_silently(open_store(passphrase), written)
    edit(path, "DELETE FROM header_copy")
    with pytest.raises(InputError, match="header"):
        open_store(passphrase)


@pytest.mark.parametrize(
    "numbers", [(1 << 26, 3, 4), (65536, 1 << 30, 4), (65536, 3, 1 << 20), (0, 0, 0)]
)
def test_a_hostile_header_cannot_ask_for_the_whole_machine(numbers: tuple[int, int, int]) -> None:
    header, _ = vault.new_sealed_header(PASSPHRASE, CHEAP)
    start = len(vault.SEALED_MAGIC) + vault.ID_BYTES + vault.SALT_BYTES
    changed = header[:start] + struct.pack("<III", *numbers) + header[start + 12 : -16]
    with pytest.raises(InputError, match="beyond the limits"):
        vault.unlock(vault._checked(changed), PASSPHRASE)


def test_flips_over_the_whole_file(
    open_store: Open, passphrase: str | None, written: Written, path: Path, tmp_path: Path
) -> None:
    whole = path.read_bytes()
    chance = random.Random(5)
    outcomes = {"refused": 0, "reported": 0, "unharmed": 0}
    places = [*range(0, 100, 4), *(chance.randrange(len(whole)) for _ in range(150))]
    for number, place in enumerate(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        copy = tmp_path / f"{number}" / "chats.db"
        copy.parent.mkdir()
        copy.write_bytes(flipped)
        try:
            store = ChatStore.open(copy, passphrase, cost=CHEAP)
        except (InputError, PrivacyError):
            outcomes["refused"] += 1
            assert copy.read_bytes() == flipped
            continue
        nothing_lost_silently(store, written)
        reported = store.damage or any(store.load(chat.id)[2] for chat in store.chats())
        outcomes["reported" if reported else "unharmed"] += 1
        store.close()
        shutil.rmtree(copy.parent)
    assert all(outcomes.values()), outcomes


def test_what_sqlite_refuses_can_be_rescued(
    open_store: Open, passphrase: str | None, written: Written, path: Path, tmp_path: Path
) -> None:
    whole = path.read_bytes()
    total = sum(map(len, written.values()))
    kept = []
    for number, length in enumerate([*range(len(whole) - 4096, 4096 * 4, -7001), 4096 * 4]):
        cut = tmp_path / f"{number}" / "chats.db"
        cut.parent.mkdir()
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            ChatStore.open(cut, passphrase, cost=CHEAP)
        assert "edgekit privacy rescue" in caught.value.hint
        assert cut.read_bytes() == whole[:length]
        new = cut.with_name("new.db")
        kept.append(rescue(cut, passphrase, new, cost=CHEAP).messages)
        store = open_store(passphrase, at=new)
        nothing_lost_silently_in_a_part(store, written, kept[-1])
    assert kept[0] >= total - 12  # the last page holds that many at most
    assert kept == sorted(kept, reverse=True)
    assert kept[len(kept) // 3] > 0


@pytest.mark.parametrize("missing", [1, 7, 300, 4095])
def test_a_file_cut_within_its_last_page(
    open_store: Open, passphrase: str | None, written: Written, path: Path, missing: int
) -> None:
    path.write_bytes(path.read_bytes()[:-missing])
    with suppress(InputError):
        nothing_lost_silently(open_store(passphrase), written)


def nothing_lost_silently_in_a_part(store: ChatStore, written: Written, messages: int) -> None:
    found = [(chat.id, entry) for chat in store.chats() for entry in store.load(chat.id)[1]]
    assert len(found) == messages
    assert all(written[chat_id][entry.id] == entry for chat_id, entry in found)
    assert store.damage == []


def test_a_whole_file_is_rescued_whole_also_from_the_log(
    open_store: Open, passphrase: str | None, hard_chat: tuple[Chat, list[Entry]], tmp_path: Path
) -> None:
    store = open_store(passphrase)
    chat, entries = hard_chat
    for entry in entries:
        store.save_entry(chat.id, entry)
    store.save_chat(chat)
    assert store.path is not None
    rescued = rescue(store.path, passphrase, tmp_path / "new.db", cost=CHEAP)  # still open
    assert (rescued.chats, rescued.messages) == (1, len(entries))
    assert open_store(passphrase, at=tmp_path / "new.db").load(chat.id)[:2] == (
        chat,
        sorted(entries, key=lambda entry: entry.at),
    )
    with pytest.raises(InputError, match="exists already"):
        rescue(store.path, passphrase, tmp_path / "new.db")


@pytest.mark.parametrize("data", [b"", b"x", b"SQLite format 3\0", b"\r" * 9000, b"\0" * 50_000])
def test_rubbish_is_neither_opened_nor_rescued(tmp_path: Path, data: bytes) -> None:
    rubbish = tmp_path / "chats.db"
    rubbish.write_bytes(data)
    if data:
        with pytest.raises(InputError):
            ChatStore.open(rubbish)
        assert rubbish.read_bytes() == data
    with pytest.raises(InputError, match="nothing in"):
        rescue(rubbish, None, tmp_path / "new.db")


def test_an_empty_file_beside_a_log_is_refused(
    open_store: Open, passphrase: str | None, path: Path, tmp_path: Path
) -> None:
    store = open_store(passphrase)
    store.save_chat(Chat("c"))
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"")
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    with pytest.raises(InputError, match="is empty"):
        ChatStore.open(copy, passphrase)
    assert (tmp_path / "copy.db-wal").stat().st_size > 0


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END",
        "CREATE VIEW v AS SELECT load_extension('x')",
        "CREATE TABLE more (id INTEGER)",
        "DROP TABLE header_copy",
        "UPDATE sqlite_master SET sql='CREATE TABLE records (id, box)' WHERE name='records'",
        "UPDATE sqlite_master SET sql='rubbish' WHERE name='records'",
    ],
)
def test_a_hostile_schema_is_refused(
    open_store: Open, passphrase: str | None, path: Path, statement: str
) -> None:
    open_store(passphrase).close()
    edit(path, statement)
    with pytest.raises(InputError):
        open_store(passphrase)


def test_a_newer_format_is_refused(open_store: Open, path: Path) -> None:
    open_store().close()
    edit(path, "PRAGMA user_version=7")
    with pytest.raises(InputError, match="has format 7; this edgekit knows 1"):
        open_store()


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        "nonsense",
        '{"kind":"question"}',
        '{"kind":"question","chat":1,"id":"q","parent":null,"text":"","attachments":[],"at":1}',
        '{"kind":"question","chat":"c","id":"q","parent":[],"text":"","attachments":[],"at":1}',
        '{"kind":"question","chat":"c","id":"q","parent":null,"text":"","attachments":[1],"at":1}',
        '{"kind":"question","chat":"c","id":"q","parent":null,"text":"","attachments":5,"at":1}',
        '{"kind":"question","chat":"c","id":"q","parent":null,"text":"","attachments":[],"at":NaN}',
        '{"kind":"answer","chat":"c","id":"q","parent":"p","text":"","ending":"boom","at":1}',
        '{"kind":"answer","chat":"c","id":"q","parent":"p","text":"","tokens":true,"at":1}',
        '{"kind":"answer","chat":"c","id":"q","parent":"p","text":"","more":"x","at":1}',
        '{"kind":"chat","id":"c","sampling":7}',
        '{"kind":"chat","id":"c","sampling":{"stop":5}}',
        '{"kind":"root"}\nshort',
        '{"kind":"boom"}',
        "[" * 100_000,
        "1" * 5000,
        '{"kind":"persona","name":"\ud800","text":1}',
    ],
)
def test_a_record_of_the_wrong_shape_is_damaged(line: str) -> None:
    from tui.store.records import decode, searchable

    data = line.encode("utf-8", "surrogatepass")
    with pytest.raises(DamagedError):
        decode(data)
    with suppress(DamagedError):
        searchable(data)


def test_a_plain_store_in_which_everyone_wrote_what_they_liked(
    open_store: Open, path: Path
) -> None:
    """Checksums are no secret: every record may lie, in the right form."""
    from tui.store.records import ChatRecord, EntryRecord, Root, encode

    store = open_store()
    store.save_entry("true", Question("q", None, "true words"))
    shelf, database = store._shelf, store._database
    sealer, aad = shelf._sealer, shelf._aad

    def put(row: int, plain: bytes) -> bytes:
        box = sealer.seal(aad(row), plain)
        database.put(row, box)
        return box[-16:]

    ledger = {
        -(1 << 63): b"x" * 16,
        5: put(5, encode(EntryRecord("other", Question("q", None, "words of another chat")))),
        6: put(6, encode(Root({6: b"y" * 16}))),
    }
    ledger |= {
        n: put(n, encode(EntryRecord("true", Question("q", "q", "w")))) for n in range(9, 900)
    }
    root = {
        shelf.row_of("chat", "true"): put(
            shelf.row_of("chat", "true"), encode(ChatRecord(Chat("true", head="nobody"), ledger))
        ),
        7: put(7, encode(ChatRecord(Chat("true"), {7: b"z" * 16}))),
        8: put(8, encode(ChatRecord(Chat("true"), dict(ledger)))),
        0: b"r" * 16,
    }
    put(0, encode(Root(root)))
    store.close()
    again = open_store()
    assert len(again.damage) == 3
    assert {chat.id for chat in again.chats()} == {"true", "other"}
    assert len(again.load("true")[2]) == 3
    again.search("words")
    again.delete_chat("true")
    assert [chat.id for chat in again.chats()] == ["other"]


def test_a_closed_store_says_so(open_store: Open, passphrase: str | None) -> None:
    store = open_store(passphrase)
    store.close()
    store.close()
    for use in (store.chats, store.warm, lambda: store.save_chat(Chat("c"))):
        with pytest.raises(InputError, match="closed already"):
            use()


def test_a_message_that_is_too_large(open_store: Open) -> None:
    store = open_store(at=None)
    store._database.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 50_000)
    with pytest.raises(GateError, match="larger than 256 MiB"):
        store.save_entry("c", Question("q", None, "x" * 50_000))
    assert store.chats() == []
