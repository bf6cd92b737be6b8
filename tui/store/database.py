"""Database: numbered rows of bytes in an SQLite file, durable, wary of hostile files.

Two copies of a header and one table of rows, nothing else. Every SQLite error leaves here as one
sentence. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from edgekit.errors import EdgekitError, GateError, InputError
from edgekit.files import disk_errors, fsync_folder, make_folder

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 10.0
BATCH_ROWS = 500
LARGEST_ROW_BYTES = 256 << 20
_MAGIC, _SMALLEST_PAGE_BYTES = b"SQLite format 3\0", 512
# The whole structure of a larger file is not checked when it is opened: on a memory card that
# would take many seconds. What is damaged there shows when it is read.
CHECKED_BYTES = 64 << 20
# The copy is a table of its own so that it lies on another page of the file.
_SCHEMA = {
    "header": "CREATE TABLE header (id INTEGER PRIMARY KEY, box BLOB NOT NULL)",
    "header_copy": "CREATE TABLE header_copy (id INTEGER PRIMARY KEY, box BLOB NOT NULL)",
    "records": "CREATE TABLE records (id INTEGER PRIMARY KEY, box BLOB NOT NULL)",
}
RESCUE_HINT = "leave the file as it is, and save what can be read: edgekit privacy rescue"


class DamagedStoreError(InputError):
    """The file of a store is damaged, or is none. What can be read of it may still be rescued."""

    def __init__(self, message: str, hint: str = RESCUE_HINT) -> None:
        super().__init__(message, hint)


class Database:
    """An open file, or memory if `path` is None. Not for two threads at once.

    `first` gives the header and the rows of a new store, if this becomes one; `is_header` knows a
    header that is whole. Raises InputError or GateError, as every method does.
    """

    def __init__(
        self,
        path: Path | None,
        first: Callable[[], tuple[bytes, dict[int, bytes]]],
        is_header: Callable[[bytes], bool],
    ) -> None:
        self._path = path
        self._is_header = is_header
        self._untidy_log = False
        self._untidy_pages = False
        if path is not None:
            _make_private_file(path)
            _refuse_what_sqlite_overwrites(path)
        with _explained(path):
            self.connection = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with _explained(path):
                self._prepare(first)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, first: Callable[[], tuple[bytes, dict[int, bytes]]]) -> None:
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_ROW_BYTES)
        for pragma in (
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "temp_store=MEMORY",
            "secure_delete=ON",
            "foreign_keys=OFF",
            "synchronous=FULL",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        self._refuse_newer()
        if not self._schema():
            # Before the write-ahead log is switched on, so that the header is in the file itself.
            self._create(*first())
        self._check_schema()
        self.connection.execute("PRAGMA journal_mode=WAL")
        self._check_structure()

    def _refuse_newer(self) -> None:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION or version < 0:
            raise InputError(
                f"{self._path} has format {version}; this edgekit knows {SCHEMA_VERSION}",
                hint="a newer edgekit wrote it: update edgekit",
            )

    def _schema(self) -> dict[str, str]:
        found = self.connection.execute("SELECT name, sql FROM sqlite_master LIMIT 20")
        return dict(found.fetchall())

    def _check_schema(self) -> None:
        if self._schema() != _SCHEMA:
            raise DamagedStoreError(
                f"{self._path} is not a store of chats, or is damaged: it is a database with "
                "other tables, triggers or views"
            )

    def _check_structure(self) -> None:
        if self._path is None or self._path.stat().st_size > CHECKED_BYTES:
            return
        (found,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError("the structure is damaged")

    def _create(self, header: bytes, rows: dict[int, bytes]) -> None:
        with self.writing():
            if self._schema():  # another process was faster
                return
            for statement in _SCHEMA.values():
                self.connection.execute(statement)
            self.connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self.put_header(header)
            for row, box in rows.items():
                self.put(row, box)
        if self._path is not None:
            fsync_folder(self._path.parent)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make what is done inside one commit, durable at the end; undo it if anything fails."""
        with _explained(self._path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors undo it all by themselves
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Show one state of the file to all that is read inside."""
        with _explained(self._path):
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")

    def version(self) -> int:
        """Return a number that changes when another process has written to the file."""
        with _explained(self._path):
            version: int = self.connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def header(self) -> bytes:
        """Return the header, or its copy where the first one is damaged. Raises InputError."""
        for table in ("header", "header_copy"):
            box = self._first_box(table)
            if isinstance(box, bytes) and self._is_header(box):
                return box
        raise DamagedStoreError(
            f"{self._path} is damaged: both copies of its header are unreadable",
            hint="try edgekit privacy rescue, or put back a copy of the file: without its header "
            "the passphrase opens nothing",
        )

    def _first_box(self, table: str) -> object:
        try:
            found = self.connection.execute(f"SELECT box FROM {table} WHERE id=1").fetchone()  # noqa: S608
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGE:
                raise _sentence(self._path, error) from error
            return None
        return found[0] if found else None

    def put_header(self, header: bytes) -> None:
        """Write both copies of the header. Inside `writing`."""
        for table in ("header", "header_copy"):
            self.connection.execute(f"REPLACE INTO {table} VALUES (1, ?)", (header,))  # noqa: S608

    def get(self, row: int) -> bytes | None:
        """Return the bytes of a row, None if there is none or it cannot be read."""
        return self.get_all([row]).get(row)

    def get_all(self, rows: Iterable[int]) -> dict[int, bytes]:
        """Return the bytes of those of `rows` that can be read."""
        found: dict[int, bytes] = {}
        left = iter(rows)
        while batch := tuple(islice(left, BATCH_ROWS)):
            try:
                found.update(self._select(batch))
            except sqlite3.DatabaseError as error:
                if _code(error) not in _DAMAGE:
                    raise _sentence(self._path, error) from error
                for row in batch:  # a damaged page takes only its own rows along
                    with suppress(sqlite3.DatabaseError):
                        found.update(self._select((row,)))
        return found

    def _select(self, rows: tuple[int, ...]) -> list[tuple[int, bytes]]:
        marks = ",".join("?" * len(rows))
        query = f"SELECT id, box FROM records WHERE id IN ({marks})"  # noqa: S608 - only marks
        return [
            (row, box)
            for row, box in self.connection.execute(query, rows)
            if isinstance(box, bytes)
        ]

    def rows(self) -> list[int]:
        """Return the numbers of all rows, as far as they can be read."""
        found: list[int] = []
        with suppress(sqlite3.DatabaseError):
            found.extend(row for (row,) in self.connection.execute("SELECT id FROM records"))
        return found

    def put(self, row: int, box: bytes) -> None:
        """Write a row. Inside `writing`."""
        self.connection.execute("REPLACE INTO records VALUES (?, ?)", (row, box))

    def delete(self, rows: Iterable[int]) -> None:
        """Remove rows. Inside `writing`."""
        self.connection.executemany("DELETE FROM records WHERE id=?", ((row,) for row in rows))

    def set_aside(self, row: int) -> None:
        """Keep the bytes of a row under a number that nobody asks for. Inside `writing`."""
        aside = secrets.randbits(62) | 1 << 62
        self.connection.execute("UPDATE records SET id=? WHERE id=?", (aside, row))

    def scrub(self) -> None:
        """Remove from the file what deleted rows left behind, the write-ahead log included.

        SQLite zeroes deleted rows, but a copy that it moved between pages earlier may remain: only
        writing the file anew is certain. It takes as much memory as the file has bytes: nothing
        goes to a temporary file. What the disk itself keeps is beyond a program's reach.
        """
        self._untidy_pages = self._untidy_log = True
        with _explained(self._path):
            self.connection.execute("VACUUM")
            self._untidy_pages = False
            self._truncate_log()

    def tidy(self) -> None:
        """Remove deleted rows from the log now, and moved copies of them when the file is closed.

        Of a row written moments ago there is rarely such a copy, and writing the file anew takes
        long on a memory card.
        """
        self._untidy_pages = self._untidy_log = True
        with _explained(self._path):
            self._truncate_log()

    def _truncate_log(self) -> None:
        (busy, _, _) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._untidy_log = bool(busy)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with suppress(EdgekitError, sqlite3.Error):
            if self._untidy_pages:
                self.scrub()
            elif self._untidy_log:  # another process was reading at the time
                self._truncate_log()
        self.connection.close()


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def make_private_folder(folder: Path) -> None:
    """Create `folder`, for its owner alone, if there is none. Raises InputError or GateError."""
    try:
        with disk_errors(folder):
            if not folder.is_dir():
                make_folder(folder)
                folder.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made: {error.strerror}",
            hint="set EDGEKIT_HOME to a folder of yours",
        ) from error


def _make_private_file(path: Path) -> None:
    """Create an empty file, for its owner alone, if there is none."""
    try:
        with disk_errors(path.parent):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened: {error.strerror}", hint="choose a file of yours"
        ) from error


def _refuse_what_sqlite_overwrites(path: Path) -> None:
    """Refuse what SQLite would take for a new file: a few bytes, or nothing beside a log."""
    with path.open("rb") as stream:
        head = stream.read(_SMALLEST_PAGE_BYTES)
    if head and (len(head) < _SMALLEST_PAGE_BYTES or not head.startswith(_MAGIC)):
        raise DamagedStoreError(f"{path} is damaged or not a store of chats")
    log = path.with_name(f"{path.name}-wal")
    if not head and log.exists() and log.stat().st_size > 0:
        raise DamagedStoreError(
            f"{path} is empty, but the log beside it ({log.name}) holds changes to it"
        )


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """Turn SQLite's errors into sentences."""
    try:
        yield
    except sqlite3.Error as error:
        raise _sentence(path, error) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF


def _sentence(path: Path | None, error: sqlite3.Error) -> EdgekitError:
    if isinstance(error, sqlite3.ProgrammingError):
        return InputError(f"{path or 'the temporary store'} was closed already")
    match _code(error):
        case sqlite3.SQLITE_TOOBIG:
            return GateError(
                f"a message is larger than {LARGEST_ROW_BYTES >> 20} MiB and is not saved",
                hint="attach a smaller file; what was saved earlier is safe",
            )
        case sqlite3.SQLITE_FULL:
            return GateError(
                f"the disk that holds {path} is full: the last change is not saved",
                hint="free some space; what was saved earlier is safe",
            )
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM:
            return GateError(
                f"{path} could not be read or written: {error}",
                hint="check the disk and its free space; what was saved earlier is safe",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return GateError(
                f"another program has been writing to {path} for {BUSY_TIMEOUT_S:.0f} s",
                hint="close the other program, or try again",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return InputError(
                f"{path} cannot be written: {error}",
                hint="its folder must be yours and writable; set EDGEKIT_HOME to another one",
            )
    return DamagedStoreError(f"{path} is damaged or not a store of chats: {error}")
