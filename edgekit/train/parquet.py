"""Parquet: rows of text or of chats, one by one, from a file that comes from outside.

A file is read in batches of a few megabytes, a row group at a time. In small row groups texts stay
in the dictionary of their page until their row is asked for, so that a short file cannot unfold
into a long one; pyarrow keeps such a dictionary to the end of its row group, so large ones are read
without. It knows the types of columns; what a good record is, `records` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.extras import need

SUFFIX = ".parquet"
CHAT_COLUMN, CHAT_FIELDS = "messages", ("role", "content")
BATCH_BYTES, BATCH_ROWS = 4 << 20, 256
READ_BYTES = 1 << 20
FOLDED_BYTES = 16 << 20  # of a row group; its dictionary takes two to three times as much memory
MESSAGE_BYTES = 16  # what a message counts beside its words

Row = dict[str, Any]


def is_parquet(file: Path) -> bool:
    """Return whether `file` is named as a Parquet file."""
    return file.suffix.lower() == SUFFIX


def parquet_rows(file: Path, columns: Sequence[str], most_bytes: int) -> Iterator[tuple[int, Row]]:
    """Yield the rows of `file` with their numbers, from 1: the `columns`, as JSON would have them.

    The column "messages" is a list of structs of two strings, role and content; any other is one
    of strings. A null, here or in a message, is left out, as if the record did not have the key.
    Raises InputError for a file that cannot be read, a column that is missing or of another type,
    and a row of more than `most_bytes`; MissingExtraError without pyarrow.
    """
    pyarrow = need("pyarrow", "train")
    rows = _rows(file, columns, most_bytes)
    while True:
        try:
            found = next(rows, None)
        except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
            words = " ".join(str(error).split())
            raise InputError(f"{file} cannot be read as Parquet: {words:.200}") from error
        if found is None:
            return
        yield found


def _rows(file: Path, columns: Sequence[str], most_bytes: int) -> Iterator[tuple[int, Row]]:
    """Yield the rows; what pyarrow has to say of a damaged file comes through as it is."""
    number = 0
    with _opened(file, columns) as table:
        for group in range(table.metadata.num_row_groups):
            for batch in _batches(table, group, columns):
                for place in range(batch.num_rows):
                    number += 1
                    yield number, _row(batch, place, f"{file}, row {number}", most_bytes)


def _opened(file: Path, columns: Sequence[str]) -> Any:
    """Return a ParquetFile whose columns are there, and of the right type."""
    parquet = need("pyarrow.parquet", "train")
    metadata = parquet.read_metadata(file)
    places = range(metadata.num_columns)
    groups = range(metadata.num_row_groups)
    folded = all(metadata.row_group(group).total_byte_size <= FOLDED_BYTES for group in groups)
    leaves = [metadata.schema.column(place) for place in places]
    texts = [
        leaf.path
        for leaf in leaves
        if leaf.path.split(".")[0] in columns and leaf.physical_type == "BYTE_ARRAY"
    ]
    for name in columns:
        _check_column(file, metadata.schema.to_arrow_schema(), name)
    return parquet.ParquetFile(
        file, metadata=metadata, read_dictionary=texts if folded else [], buffer_size=READ_BYTES
    )


def _check_column(file: Path, schema: Any, name: str) -> None:
    found = schema.get_all_field_indices(name)
    if len(found) != 1:
        many = f"{len(found)} columns" if found else "no column"
        raise InputError(
            f"{file} has {many} {name!r}", hint=f"its columns: {', '.join(schema.names)[:200]}"
        )
    kind = schema.field(found[0]).type
    wanted = "of strings"
    if name == CHAT_COLUMN:
        wanted = f"of lists of structs with the strings {' and '.join(CHAT_FIELDS)}"
    if not (_is_chat(kind) if name == CHAT_COLUMN else _is_text(kind)):
        raise InputError(f"{file}: the column {name!r} is {kind!s:.200}, not {wanted}")


def _is_text(kind: Any) -> bool:
    types = need("pyarrow", "train").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_chat(kind: Any) -> bool:
    types = need("pyarrow", "train").types
    if not (types.is_list(kind) or types.is_large_list(kind)):
        return False
    item = kind.value_type
    if not types.is_struct(item):
        return False
    fields = {item.field(place).name: item.field(place).type for place in range(item.num_fields)}
    return sorted(fields) == sorted(CHAT_FIELDS) and all(map(_is_text, fields.values()))


def _batches(table: Any, group: int, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the batches of a row group."""
    facts = table.metadata.row_group(group)  # of its columns pyarrow cannot tell without risk:
    row_bytes = facts.total_byte_size // max(1, facts.num_rows)  # bad ones end the process
    rows = min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, row_bytes)))
    yield from table.iter_batches(
        rows, row_groups=[group], columns=list(columns), use_threads=False
    )


def _row(batch: Any, place: int, where: str, most_bytes: int) -> Row:
    budget = _Budget(where, most_bytes)
    try:
        found = {
            name: _chat(value, budget) if name == CHAT_COLUMN else _text(value, budget)
            for name in batch.schema.names
            if (value := batch.column(name)[place]).is_valid
        }
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8: {error.reason}") from error
    return found


def _chat(messages: Any, budget: _Budget) -> list[dict[str, str] | None]:
    return [_message(message, budget) for message in messages]


def _message(message: Any, budget: _Budget) -> dict[str, str] | None:
    budget.take(MESSAGE_BYTES)
    if not message.is_valid:
        return None
    fields = ((name, message[name]) for name in CHAT_FIELDS)
    return {name: _text(value, budget) for name, value in fields if value.is_valid}


def _text(value: Any, budget: _Budget) -> str:
    """Return a string, once it is known to be short enough."""
    plain = getattr(value, "value", value)  # of a dictionary's entry
    buffer = plain.as_buffer()
    budget.take(buffer.size)
    return str(buffer.to_pybytes(), "utf-8")


class _Budget:
    """Counts the bytes of a row, and refuses more than it may have."""

    def __init__(self, where: str, most_bytes: int) -> None:
        self._where, self._left, self._most = where, most_bytes, most_bytes

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InputError(
                f"{self._where} has more than {self._most} bytes",
                hint="cut it into several records",
            )
