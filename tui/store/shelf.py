"""Shelf: sealed records, each in the row that its name gives, and what is left of damaged ones.

Joins a database, a sealer and the records' format. Knows nothing of how records make a chat.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tui.store.database import Database
from tui.store.records import Ledger, Record, decode, encode, place_of
from tui.store.sealing import TAG_BYTES, DamagedError, Sealer

ROOT_ROW = 0
_Decoded = TypeVar("_Decoded")


class Shelf:
    """The records of one store under one key."""

    def __init__(self, database: Database, sealer: Sealer, store_id: bytes) -> None:
        self._database = database
        self._sealer = sealer
        self._store_id = store_id

    def row_of(self, *place: str) -> int:
        """Return the row of a record: a hash under the store's key, which tells others nothing."""
        if place == ("root",):
            return ROOT_ROW
        name = json.dumps(place).encode("ascii")
        key = self._sealer.place_key
        digest = hashlib.blake2b(name, key=key, digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 2 or 1  # the upper half is for rows set aside

    def open(self, row: int, box: bytes | None, tag: bytes | None = None) -> Record:
        """Return the record in `box`, which was read from `row`. Raises DamagedError.

        `tag`, if given, is what the record's ledger says: another one is another version.
        """
        return decode(self._plain(row, box, tag))

    def _plain(self, row: int, box: bytes | None, tag: bytes | None) -> bytes:
        if box is None:
            raise DamagedError("it is missing, or lies on a damaged page")
        plain = self._sealer.open(self._aad(row), box)
        if tag is not None and box[-TAG_BYTES:] != tag:
            raise DamagedError("an older version was put in its place")
        return plain

    def read(self, row: int, tag: bytes | None = None) -> Record:
        """Return the record in a row. Raises DamagedError."""
        return self.open(row, self._database.get(row), tag)

    def read_all(self, ledger: Ledger) -> Iterator[tuple[int, Record | DamagedError]]:
        """Yield what is in each row of `ledger`, in its order."""
        return self.read_as(decode, ledger)

    def read_as(
        self, decoded: Callable[[bytes], _Decoded], ledger: Ledger
    ) -> Iterator[tuple[int, _Decoded | DamagedError]]:
        """Yield what `decoded` makes of each row of `ledger`, in its order."""
        boxes = self._database.get_all(ledger)
        for row, tag in ledger.items():
            try:
                yield row, decoded(self._plain(row, boxes.get(row), tag))
            except DamagedError as error:
                yield row, error

    def scan(self) -> Iterator[tuple[int, bytes, Record]]:
        """Yield row, tag and record of all that opens, listed anywhere or not."""
        rows = self._database.rows()
        for row, box in self._database.get_all(rows).items():
            try:
                yield row, box[-TAG_BYTES:], self.open(row, box)
            except DamagedError:
                continue

    def write(self, record: Record) -> tuple[int, bytes]:
        """Write a record; return its row and its tag. Inside the database's `writing`.

        Bytes in its row that do not open are kept, out of the way.
        """
        row = self.row_of(*place_of(record))
        before = self._database.get(row)
        if before is not None and not self._opens(row, before):
            self._database.set_aside(row)
        box = self._sealer.seal(self._aad(row), encode(record))
        self._database.put(row, box)
        return row, box[-TAG_BYTES:]

    def delete(self, rows: Iterable[int]) -> None:
        """Remove rows. Inside the database's `writing`."""
        self._database.delete(rows)

    def _opens(self, row: int, box: bytes) -> bool:
        try:
            self.open(row, box)
        except DamagedError:
            return False
        return True

    def _aad(self, row: int) -> bytes:
        return self._store_id + struct.pack("<q", row)
