"""ChatStore: all chats of a user in one file, plain or encrypted, or in memory only.

What a save returns from is durable: it survives a kill and a power cut. Callable from any thread;
two processes may have the same file open. Knows nothing of screens; see `vault.py` for what the
encryption promises and what it does not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from edgekit.errors import EdgekitError, GateError, InputError, PrivacyError
from tui.conversation import Chat, Entry, Persona
from tui.store import presence, vault
from tui.store.database import Database, make_private_folder
from tui.store.index import SearchIndex
from tui.store.records import ChatRecord, EntryRecord, Note, Root, encode
from tui.store.sealing import Sealer
from tui.store.searching import Hit, Words, excerpt
from tui.store.shelf import ROOT_ROW, Shelf
from tui.store.tree import Tree

_NO_NOTES: Mapping[str, str] = MappingProxyType({})


class ChatStore:
    """The chats, personas and notes in one file. Make one with `open`, end it with `close`.

    Methods that write raise GateError where the disk is full or another program holds the file,
    and PrivacyError if another program changed the passphrase; nothing saved earlier is lost.
    """

    def __init__(
        self, path: Path | None, database: Database, sealer: Sealer, handle: int | None
    ) -> None:
        """Not to be called: see `open`."""
        self.path = path
        self._database = database
        self._handle = handle
        self._lock = threading.RLock()
        self._index = SearchIndex()
        self._use(database.header(), sealer)

    def _use(self, header: bytes, sealer: Sealer) -> None:
        self._header = header
        self._shelf = Shelf(self._database, sealer, vault.store_id(header))
        self._tree = Tree(self._shelf)
        self._seen: int | None = None

    @classmethod
    def open(
        cls,
        path: Path | None,
        passphrase: str | None = None,
        *,
        cost: vault.Cost = vault.Cost(),  # noqa: B008 - frozen
    ) -> ChatStore:
        """Open the store at `path`, or make a new one; `path` None is one in memory.

        With a passphrase the store is encrypted; `cost` is what a new one's key derivation takes.
        Raises PrivacyError for a wrong or empty passphrase, InputError for a damaged file or a
        plain store opened with a passphrase or the reverse.
        """
        handle = None
        if path is not None:
            make_private_folder(path.parent)
            handle = presence.announce(path)
        database = None
        try:
            new = _NewStore(passphrase, cost)
            database = Database(path, new.make, vault.is_header)
            header = database.header()
            sealer = new.sealer if new.header == header else None
            store = cls(path, database, sealer or sealer_for(path, header, passphrase), handle)
            with store._reading():
                return store
        except BaseException:
            if database is not None:
                database.close()
            if handle is not None:
                os.close(handle)
            raise

    @property
    def encrypted(self) -> bool:
        """Return whether the file says nothing without the passphrase."""
        return vault.is_sealed(self._header)

    @property
    def damage(self) -> list[str]:
        """Return a sentence for each chat, persona or note that cannot be read."""
        with self._reading():
            return list(self._tree.damage)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._database.reading():
            self._refresh()
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            try:
                with self._database.writing():
                    self._refresh()
                    yield
            except BaseException:
                self._seen = None  # memory may be ahead of the file
                raise

    def _refresh(self) -> None:
        """Take in what another process wrote."""
        version = self._database.version()
        if version == self._seen:
            return
        if self._database.header() != self._header:
            raise PrivacyError(
                f"the passphrase of {self.path} was changed by another program",
                hint="close this chat and open it again with the new passphrase",
            )
        self._tree.refresh()
        self._seen = version

    def chats(self) -> list[Chat]:
        """Return the facts of all chats, newest change first."""
        with self._reading():
            return sorted(self._tree.chats(), key=lambda chat: chat.changed_at, reverse=True)

    def load(self, chat_id: str) -> tuple[Chat, list[Entry], list[str]]:
        """Return a chat, its entries, and a sentence for each entry that could not be read.

        Raises InputError if there is no such chat.
        """
        with self._reading():
            record = self._tree.chat(chat_id)
            if record is None:
                raise InputError("this chat is not in the store", hint="it may have been deleted")
            return (record.chat, *self._tree.entries(record))

    def save_chat(self, chat: Chat) -> None:
        """Write a chat's facts; its entries stay as they are."""
        with self._writing():
            held = self._tree.chat(chat.id)
            self._tree.keep(ChatRecord(chat, held.ledger if held else {}))

    def save_entry(self, chat_id: str, entry: Entry) -> None:
        """Write an entry. A new one becomes the chat's head, as in `Conversation.put`.

        The chat is made if there is none: what is written is never dropped.
        """
        with self._writing():
            held = self._tree.chat(chat_id) or ChatRecord(Chat(chat_id, changed_at=entry.at))
            chat = held.chat
            row, tag = self._shelf.write(EntryRecord(chat_id, entry))
            if row not in held.ledger:
                chat = replace(chat, head=entry.id, changed_at=max(chat.changed_at, entry.at))
            self._tree.keep(ChatRecord(chat, {**held.ledger, row: tag}))

    def save_all(
        self, chat: Chat, entries: Iterable[Entry], notes: Mapping[str, str] = _NO_NOTES
    ) -> None:
        """Write a chat, many of its entries and some notes in one commit: all of them or none."""
        with self._writing():
            held = self._tree.chat(chat.id)
            written = (self._shelf.write(EntryRecord(chat.id, entry)) for entry in entries)
            record = ChatRecord(chat, {**(held.ledger if held else {}), **dict(written)})
            changed = (Note(*note) for note in notes.items() if self._tree.note(note[0]) != note[1])
            self._tree.keep(record, *changed)

    def delete_chat(self, chat_id: str) -> None:
        """Remove a chat and every trace of it in the file. No error if it is gone already."""
        with self._lock:
            with self._writing():
                held = self._tree.chat(chat_id)
                if held is None:
                    return
                self._tree.drop(self._shelf.row_of("chat", chat_id), held.ledger)
            self._clean(self._database.scrub, "the chat is deleted")

    def delete_entry(self, chat_id: str, entry_id: str) -> None:
        """Remove an entry that no other one follows; its parent becomes the head in its place.

        No error if it is gone already; InputError if another entry follows it. Its bytes and those
        in the log are gone when this returns, a copy that SQLite moved earlier when the store is
        closed.
        """
        with self._lock:
            with self._writing():
                held = self._tree.chat(chat_id)
                row = self._shelf.row_of("entry", chat_id, entry_id)
                if held is None or row not in held.ledger:
                    return
                entries, _ = self._tree.entries(held)
                if any(entry.parent == entry_id for entry in entries):
                    raise InputError("a message that another one follows cannot be removed alone")
                chat = held.chat
                if chat.head == entry_id:
                    parents = {entry.id: entry.parent for entry in entries}
                    chat = replace(chat, head=parents.get(entry_id))
                self._shelf.delete([row])
                ledger = {key: tag for key, tag in held.ledger.items() if key != row}
                self._tree.keep(ChatRecord(chat, ledger))
            self._clean(self._database.tidy, "the message is removed")

    def _clean(self, clean: Callable[[], None], done: str) -> None:
        try:
            clean()
        except EdgekitError as error:
            raise GateError(
                f"{done}, but traces of old text may remain in the file: {error.message}",
                hint="they go with the next chat that is deleted when this is solved",
            ) from error

    def warm(self) -> None:
        """Build the search index, or bring it up to date. A thread may do it early."""
        more = True
        while more:  # the lock is free between two steps
            with self._reading():
                more = self._index.step(self._tree.records(), self._shelf)

    def search(self, words: str, limit: int = 50) -> list[Hit]:
        """Return where all of `words` and "quoted phrases" occur, newest first.

        Titles, questions, answers and attachments are searched, without regard to case.
        """
        wanted = Words(words)
        if not wanted:
            return []
        self.warm()
        with self._reading():
            found = [
                (text.at, record.chat, text, at)
                for record in self._tree.records()
                for text in self._index.texts(record)
                if (at := wanted.match(text)) is not None
            ]
        found.sort(key=lambda hit: hit[0], reverse=True)
        return [
            Hit(chat.id, chat.title, text.entry_id, excerpt(text, at), text.at)
            for _, chat, text, at in found[:limit]
        ]

    def personas(self) -> list[Persona]:
        """Return all personas, by name."""
        with self._reading():
            return self._tree.personas()

    def save_persona(self, persona: Persona) -> None:
        """Write a persona, in place of the one of that name."""
        with self._writing():
            self._tree.keep(persona)

    def delete_persona(self, name: str) -> None:
        """Remove a persona. No error if there is none of that name."""
        with self._writing():
            self._tree.drop(self._shelf.row_of("persona", name))

    def note(self, name: str) -> str | None:
        """Return a small value that was kept under `name`, None if there is none."""
        with self._reading():
            return self._tree.note(name)

    def set_note(self, name: str, value: str | None) -> None:
        """Keep a small value under `name`, sealed as chats are; None removes it."""
        if self.note(name) == value:
            return
        with self._writing():
            if value is None:
                self._tree.drop(self._shelf.row_of("note", name))
            else:
                self._tree.keep(Note(name, value))

    def change_passphrase(self, new: str, *, cost: vault.Cost = vault.Cost()) -> None:  # noqa: B008
        """Seal everything again with a new key, which the passphrase `new` wraps.

        One commit: a kill leaves the old passphrase or the new one working, with everything there.
        Raises PrivacyError for an empty passphrase, InputError if the store is not encrypted.
        """
        if not self.encrypted:
            raise InputError(f"{self.path} is not encrypted", hint="start a private chat instead")
        with self._lock:
            header, sealer = vault.new_sealed_header(new, cost, vault.store_id(self._header))
            with self._writing():
                self._tree.move_to(Shelf(self._database, sealer, vault.store_id(header)))
                self._database.put_header(header)
            self._use(header, sealer)
            self._index.clear()
            self._clean(self._database.scrub, "the passphrase is changed")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._database.close()
            self._index.clear()
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None


class _NewStore:
    """Makes the first header and row of a new store, and remembers the key that it made."""

    def __init__(self, passphrase: str | None, cost: vault.Cost) -> None:
        self._passphrase = passphrase
        self._cost = cost
        self.header = b""
        self.sealer: Sealer | None = None

    def make(self) -> tuple[bytes, dict[int, bytes]]:
        """Return the header and the rows of an empty store."""
        if self._passphrase is None:
            self.header = vault.new_plain_header()
            self.sealer = vault.plain_sealer(self.header)
        else:
            self.header, self.sealer = vault.new_sealed_header(self._passphrase, self._cost)
        return self.header, {ROOT_ROW: first_root(self.header, self.sealer)}


def first_root(header: bytes, sealer: Sealer) -> bytes:
    """Return the root record of an empty store."""
    return sealer.seal(vault.store_id(header) + ROOT_ROW.to_bytes(8, "little"), encode(Root()))


def sealer_for(path: Path | None, header: bytes, passphrase: str | None) -> Sealer:
    """Return the sealer of a store. Raises PrivacyError or InputError, as `ChatStore.open`."""
    if vault.is_sealed(header):
        if passphrase is None:
            raise InputError(f"{path} is encrypted", hint="open it with its passphrase")
        return vault.unlock(header, passphrase)
    if passphrase is not None:
        raise InputError(
            f"{path} is not encrypted, but a passphrase was given", hint="open it without one"
        )
    return vault.plain_sealer(header)
