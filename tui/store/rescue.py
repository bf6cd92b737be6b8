"""Rescue: read what a damaged file still holds, without SQLite, and write it to a new store.

SQLite refuses a file that is cut short or whose structure is damaged. But each record proves
itself by its tag, so it is enough to look at every page of the file for rows that open (the
format: sqlite.org/fileformat2.html, sections 1.6 and 4). The damaged file is only read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError
from tui.conversation import Conversation, Entry, Persona
from tui.store import vault
from tui.store.chats import ChatStore, sealer_for
from tui.store.database import LARGEST_ROW_BYTES
from tui.store.presence import find_header
from tui.store.records import ChatRecord, EntryRecord, Ledger, Note, Record, Root, decode
from tui.store.sealing import TAG_BYTES, DamagedError, Sealer
from tui.store.tree import rebuilt_chat

PAGE_BYTES = 4096  # SQLite's, and never changed by us
LARGEST_FILE_BYTES = 4 << 30
_LEAF = 0x0D
_HEADER_ROW = 1  # in tables of their own; no record has this number
_WAL_HEADER, _FRAME_HEADER = struct.Struct(">8I"), struct.Struct(">6I")

Pages = Callable[[int], bytes]
"""Returns page `number`, counted from 1, or nothing if the file has no such page."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was copied to the new store: numbers of chats and of their messages.

    `lost` counts records of any kind that the file lists or holds and that could not be read.
    Where the list itself is lost, there may be more that nobody can count.
    """

    chats: int
    messages: int
    lost: int


def rescue(
    damaged: Path,
    passphrase: str | None,
    into: Path,
    *,
    cost: vault.Cost = vault.Cost(),  # noqa: B008 - frozen
) -> Rescued:
    """Copy what still opens in `damaged` to a new store at `into`, under the same passphrase.

    Raises InputError if the file holds no readable header or `into` exists, PrivacyError for a
    wrong passphrase. `damaged` stays as it is.
    """
    if into.exists():
        raise InputError(f"{into} exists already", hint="choose a file that does not")
    pages, count = _open_pages(damaged)
    header = _header(damaged, pages, count)
    sealer = sealer_for(damaged, header, passphrase)
    found, lost = _records(pages, count, sealer, vault.store_id(header))
    store = ChatStore.open(into, passphrase, cost=cost)
    try:
        chats, messages = _copy(found, store)
    finally:
        store.close()
    return Rescued(chats, messages, lost)


def is_encrypted(damaged: Path) -> bool:
    """Return whether a damaged store needs its passphrase. Raises InputError as `rescue` does."""
    return vault.is_sealed(_header(damaged, *_open_pages(damaged)))


def _copy(found: list[Record], store: ChatStore) -> tuple[int, int]:
    """Write the records to a new store; return how many chats and messages there are."""
    chats = {record.chat.id: record.chat for record in found if isinstance(record, ChatRecord)}
    entries: dict[str, dict[str, Entry]] = {}
    for record in found:
        if isinstance(record, EntryRecord):
            entries.setdefault(record.chat_id, {})[record.entry.id] = record.entry
        elif isinstance(record, Persona):
            store.save_persona(record)
        elif isinstance(record, Note):
            store.set_note(record.name, record.value)
    for chat_id in chats.keys() | entries.keys():
        in_order = Conversation(entries.get(chat_id, {}).values()).entries()
        store.save_all(chats.get(chat_id) or rebuilt_chat(chat_id, in_order), in_order)
    return len(chats.keys() | entries.keys()), sum(map(len, entries.values()))


def _records(pages: Pages, count: int, sealer: Sealer, store_id: bytes) -> tuple[list[Record], int]:
    """Return all records that open, and how many more there were."""
    opened: list[tuple[int, bytes, Record]] = []
    closed: set[int] = set()
    for number in range(1, count + 1):
        for row, box in _rows(pages, number):
            try:
                record = decode(sealer.open(store_id + struct.pack("<q", row), box))
            except DamagedError:
                closed.add(row)
            else:
                opened.append((row, box[-TAG_BYTES:], record))
    listed = dict(line for _, _, record in opened for line in _ledger(record).items())
    # After a write that broke off, a row may stand on two pages: the version that is listed wins.
    opened.sort(key=lambda found: listed.get(found[0]) == found[1])
    lost = (listed.keys() | closed) - {row for row, _, _ in opened} - {_HEADER_ROW}
    return [record for _, _, record in opened], len(lost)


def _ledger(record: Record) -> Ledger:
    return record.ledger if isinstance(record, Root | ChatRecord) else {}


def _header(path: Path, pages: Pages, count: int) -> bytes:
    for number in range(1, count + 1):
        if (header := find_header(pages(number))) is not None:
            return header
    raise InputError(
        f"nothing in {path} can be read: it holds no undamaged header of a store",
        hint="put back a copy of the file",
    )


def _open_pages(path: Path) -> tuple[Pages, int]:
    """Return the file's pages, the newer ones in its write-ahead log first, and their number."""
    data = _read(path)
    newer = dict(_log_pages(_read(path.with_name(f"{path.name}-wal"), missing=b"")))

    def page(number: int) -> bytes:
        start = (number - 1) * PAGE_BYTES
        return newer.get(number) or data[start : start + PAGE_BYTES]

    return page, max([-(-len(data) // PAGE_BYTES), *newer])


def _read(path: Path, missing: bytes | None = None) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"{path} is larger than 4 GB: it is not a store of chats")
        return path.read_bytes()
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _log_pages(log: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a write-ahead log, oldest first; those of earlier rounds are passed."""
    if len(log) < _WAL_HEADER.size:
        return
    salts = _WAL_HEADER.unpack_from(log)[4:6]
    size = _FRAME_HEADER.size + PAGE_BYTES
    most = len(log) // PAGE_BYTES + LARGEST_FILE_BYTES // PAGE_BYTES
    for start in range(_WAL_HEADER.size, len(log) - size + 1, size):
        number, _, *frame_salts = _FRAME_HEADER.unpack_from(log, start)[:4]
        if tuple(frame_salts) != salts:
            return
        if 0 < number <= most:
            yield number, log[start + _FRAME_HEADER.size : start + size]


def _rows(pages: Pages, number: int) -> Iterator[tuple[int, bytes]]:
    """Yield the row numbers and bytes on a page, if it is a leaf of a table."""
    page = pages(number)
    start = 100 if number == 1 else 0
    if len(page) < start + 8 or page[start] != _LEAF:
        return
    (cells,) = struct.unpack_from(">H", page, start + 3)
    for index in range(min(cells, PAGE_BYTES // 4)):
        try:
            (at,) = struct.unpack_from(">H", page, start + 8 + 2 * index)
            yield _row(pages, page, at)
        except (IndexError, struct.error, ValueError):
            continue


def _row(pages: Pages, page: bytes, at: int) -> tuple[int, bytes]:
    """Return the number and the bytes of the row whose cell begins at `at`."""
    length, at = _varint(page, at)
    row, at = _varint(page, at)
    if length > LARGEST_ROW_BYTES:
        raise ValueError("too long")
    payload = _payload(pages, page, at, length)
    header_length, next_type = _varint(payload, 0)
    _, next_type = _varint(payload, next_type)  # the row number itself, stored as nothing
    kind, _ = _varint(payload, next_type)
    size = (kind - 12) // 2
    if kind < 12 or kind % 2 or header_length + size > len(payload):
        raise ValueError("no bytes")
    signed = row - (1 << 64) if row >> 63 else row
    return signed, payload[header_length : header_length + size]


def _payload(pages: Pages, page: bytes, at: int, length: int) -> bytes:
    """Return a cell's content: what is on its page, and the rest on a chain of others."""
    most = PAGE_BYTES - 35
    if length <= most:
        return page[at : at + length]
    least = (PAGE_BYTES - 12) * 32 // 255 - 23
    here = least + (length - least) % (PAGE_BYTES - 4)
    here = here if here <= most else least
    pieces = [page[at : at + here]]
    (following,) = struct.unpack_from(">I", page, at + here)
    left = length - here
    while left > 0:
        overflow = pages(following)
        if following == 0 or len(overflow) < 4:
            raise ValueError("cut short")
        (following,) = struct.unpack_from(">I", overflow)
        pieces.append(overflow[4 : 4 + left])
        left -= PAGE_BYTES - 4
    return b"".join(pieces)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an integer of SQLite's variable length, and where it ends. Raises IndexError."""
    value = 0
    for position in range(at, at + 8):
        value = value << 7 | data[position] & 0x7F
        if data[position] < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9
