"""Index: the texts of all chats in memory, kept in step with the store by the tags of its ledgers.

It is told nothing of saves: whatever a ledger lists under a new tag is read, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tui.store.records import ChatRecord, Ledger, searchable
from tui.store.sealing import DamagedError
from tui.store.searching import Text
from tui.store.shelf import Shelf

BATCH_ENTRIES = 500

_Texts = dict[int, tuple[bytes, Text | None]]
"""Row -> the tag it had when it was read, and its text if it could be read."""


class SearchIndex:
    """What `ChatStore.search` looks through. Whoever calls holds the store's lock."""

    def __init__(self) -> None:
        self._chats: dict[str, tuple[Ledger | None, _Texts]] = {}  # the ledger once all is read

    def step(self, records: list[ChatRecord], shelf: Shelf) -> bool:
        """Read some of what is missing; return whether there is more."""
        left = BATCH_ENTRIES
        for record in records:
            done, texts = self._chats.get(record.chat.id, (None, {}))
            if done is record.ledger:
                continue
            if left <= 0:
                return True
            left -= self._read(record, texts, shelf, left)
        known = {record.chat.id for record in records}
        self._chats = {key: value for key, value in self._chats.items() if key in known}
        return left <= 0

    def _read(self, record: ChatRecord, texts: _Texts, shelf: Shelf, most: int) -> int:
        current = {row: texts[row] for row in record.ledger if row in texts}
        missing = [
            row
            for row, tag in record.ledger.items()
            if row not in current or current[row][0] != tag
        ]
        batch = {row: record.ledger[row] for row in missing[:most]}
        for row, found in shelf.read_as(_searchable_text, batch):
            current[row] = (batch[row], None if isinstance(found, DamagedError) else found)
        complete = len(missing) <= most
        self._chats[record.chat.id] = (record.ledger if complete else None, current)
        return max(1, len(batch))

    def texts(self, record: ChatRecord) -> Iterator[Text]:
        """Yield the texts of a chat, its title first."""
        yield Text.of_text(record.chat.title, record.chat.changed_at)
        _, texts = self._chats.get(record.chat.id, (None, {}))
        yield from _present(texts.values())

    def clear(self) -> None:
        """Forget all texts."""
        self._chats.clear()


def _searchable_text(data: bytes) -> Text:
    entry_id, at, written = searchable(data)
    return Text.of_text(written, at, entry_id)


def _present(texts: Iterable[tuple[bytes, Text | None]]) -> Iterator[Text]:
    return (text for _, text in texts if text is not None)
