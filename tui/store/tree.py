"""Tree: the root record lists chats, personas and notes; each chat lists its entries, by tag.

So one record vouches for all others, and what was removed, swapped or put back is noticed. Chats,
personas and notes are held in memory; entries are not. Whoever calls holds the lock and is inside
`reading` or `writing`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeGuard, TypeVar

from tui.conversation import Chat, Conversation, Entry, Persona, Question, title_of
from tui.store.records import ChatRecord, EntryRecord, Ledger, Note, Record, Root, place_of
from tui.store.sealing import DamagedError
from tui.store.shelf import ROOT_ROW, Shelf

Kept = ChatRecord | Persona | Note
_Kind = TypeVar("_Kind", ChatRecord, Persona, Note)


class Tree:
    """What one process knows of a store, as of the last `refresh`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._root: Ledger = {}
        self._kept: dict[int, Kept] = {}
        self.damage: list[str] = []
        self._rebuilt: set[str] = set()

    def refresh(self) -> None:
        """Read what changed since the last time."""
        for chat_id in self._rebuilt:  # look again: another process may have written them
            self._kept.pop(self._shelf.row_of("chat", chat_id), None)
        self.damage, self._rebuilt = [], set()
        try:
            root = self._shelf.read(ROOT_ROW)
            if not isinstance(root, Root):
                raise DamagedError("it is another record")
        except DamagedError as error:
            self._read_without_root(str(error))
            return
        same = {
            row: self._kept[row]
            for row, tag in root.ledger.items()
            if row in self._kept and self._root.get(row) == tag
        }
        changed = {row: tag for row, tag in root.ledger.items() if row not in same}
        self._root, self._kept = root.ledger, same
        for row, record in self._shelf.read_all(changed):
            self._note(row, record)
        if self.damage:
            self._find_orphans()

    def _note(self, row: int, record: Record | DamagedError) -> None:
        if self._is_kept(record, row):
            self._kept[row] = record
        else:
            reason = record if isinstance(record, DamagedError) else "it is another record"
            self.damage.append(f"a chat, persona or small value is left out: {reason}")

    def _is_kept(self, record: Record | DamagedError, row: int) -> TypeGuard[Kept]:
        """Return whether this is a chat, persona or note, and in its own row.

        In a plain store anyone can write any record into any row.
        """
        if not isinstance(record, ChatRecord | Persona | Note):
            return False
        return row == self._shelf.row_of(*place_of(record))

    def _read_without_root(self, reason: str) -> None:
        """Take whatever opens: nothing can tell any more what is missing."""
        self.damage.append(
            f"the list of chats is damaged ({reason}); what still opens is here, but whether "
            "more is missing cannot be told"
        )
        self._root, self._kept = {}, {}
        for row, tag, record in self._shelf.scan():
            if self._is_kept(record, row):
                self._root[row], self._kept[row] = tag, record
        self._find_orphans()

    def _find_orphans(self) -> None:
        """Rebuild the chats whose own record is lost from their entries."""
        known = {chat.id for chat in self.chats()}
        entries: dict[str, list[Entry]] = {}
        ledgers: dict[str, Ledger] = {}
        for row, tag, record in self._shelf.scan():
            if isinstance(record, EntryRecord) and record.chat_id not in known:
                entries.setdefault(record.chat_id, []).append(record.entry)
                ledgers.setdefault(record.chat_id, {})[row] = tag
        for chat_id, found in entries.items():
            row = self._shelf.row_of("chat", chat_id)
            self._kept[row] = ChatRecord(rebuilt_chat(chat_id, found), ledgers[chat_id])
            self._rebuilt.add(chat_id)

    def _all(self, kind: type[_Kind]) -> list[_Kind]:
        return [record for record in self._kept.values() if isinstance(record, kind)]

    def records(self) -> list[ChatRecord]:
        """Return all chats. A record stays the same object until it is written again."""
        return self._all(ChatRecord)

    def chats(self) -> list[Chat]:
        """Return the facts of all chats."""
        return [record.chat for record in self.records()]

    def personas(self) -> list[Persona]:
        """Return all personas, by name."""
        return sorted(self._all(Persona), key=lambda persona: persona.name)

    def note(self, name: str) -> str | None:
        """Return the value of a note."""
        record = self._kept.get(self._shelf.row_of("note", name))
        return record.value if isinstance(record, Note) else None

    def chat(self, chat_id: str) -> ChatRecord | None:
        """Return a chat's facts and ledger."""
        record = self._kept.get(self._shelf.row_of("chat", chat_id))
        return record if isinstance(record, ChatRecord) else None

    def entries(self, record: ChatRecord) -> tuple[list[Entry], list[str]]:
        """Return the entries of a chat that open, and a sentence for each that does not."""
        entries: list[Entry] = []
        sentences: list[str] = []
        if record.chat.id in self._rebuilt:
            sentences.append("the facts of this chat are lost; its messages were put in order")
        for number, (_, found) in enumerate(self._shelf.read_all(record.ledger), start=1):
            if isinstance(found, EntryRecord) and found.chat_id == record.chat.id:
                entries.append(found.entry)
            else:
                reason = found if isinstance(found, DamagedError) else "it is of another chat"
                of_all = f"message {number} of {len(record.ledger)}"
                sentences.append(f"{of_all} is left out: {reason}")
        return entries, sentences

    def keep(self, *records: Kept) -> None:
        """Write chats, personas or notes, and the root."""
        for record in records:
            row, tag = self._shelf.write(record)
            self._root[row], self._kept[row] = tag, record
            if isinstance(record, ChatRecord):
                self._rebuilt.discard(record.chat.id)
        self._shelf.write(Root(self._root))

    def drop(self, row: int, more_rows: Iterable[int] = ()) -> None:
        """Remove a chat, persona or note and `more_rows`, and write the root."""
        self._shelf.delete([row, *more_rows])
        self._root.pop(row, None)
        self._kept.pop(row, None)
        self._shelf.write(Root(self._root))

    def move_to(self, new: Shelf) -> None:
        """Write all records anew on another shelf of the same database, and remove them here.

        What does not open stays where it is, and stays listed, so that it is reported further on.
        """
        root = {row: tag for row, tag in self._root.items() if row not in self._kept}
        for old_row, record in self._kept.items():
            moved: Kept = record
            if isinstance(record, ChatRecord):
                moved = ChatRecord(record.chat, self._moved_entries(record.ledger, new))
                if record.chat.id in self._rebuilt:
                    old_row = ROOT_ROW  # what lies in its row is damaged, and stays
            if old_row != ROOT_ROW:
                self._shelf.delete([old_row])
            row, tag = new.write(moved)
            root[row] = tag
        self._remove_old_root()
        new.write(Root(root))

    def _remove_old_root(self) -> None:
        with suppress(DamagedError):
            self._shelf.read(ROOT_ROW)
            self._shelf.delete([ROOT_ROW])

    def _moved_entries(self, ledger: Ledger, new: Shelf) -> Ledger:
        moved: Ledger = {}
        for row, found in self._shelf.read_all(ledger):
            if isinstance(found, DamagedError):
                moved[row] = ledger[row]
                continue
            self._shelf.delete([row])
            new_row, tag = new.write(found)
            moved[new_row] = tag
        return moved


def rebuilt_chat(chat_id: str, entries: list[Entry]) -> Chat:
    """Return the facts of a chat as its entries, at least one, tell them."""
    oldest_first = Conversation(entries).entries()
    questions = [entry for entry in oldest_first if isinstance(entry, Question)]
    return Chat(
        chat_id,
        title_of(questions[0].text) if questions else "",
        made_at=oldest_first[0].at,
        changed_at=oldest_first[-1].at,
        head=oldest_first[-1].id,
    )
