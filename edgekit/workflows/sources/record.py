"""`edgekit-source.json`: where a model in the store came from, and what it consists of.

It is written last into the staging folder, so a folder that holds it was pulled to the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.artifact import FileEntry
from edgekit.errors import InputError
from edgekit.files import sha256_file, write_atomically
from edgekit.progress import Progress

RECORD_NAME = "edgekit-source.json"
SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """What a source knows about the files that it has just delivered.

    `revision` is a version or a commit, None where there is none. `upstream` are the files that
    were fetched, under the names they have at the source. `tools` maps a tool to its version.
    """

    source: str
    revision: str | None
    licence: str | None
    upstream: list[FileEntry]
    tools: dict[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """An origin, and the files that lie in the store."""

    origin: Origin
    files: list[FileEntry]

    @property
    def bytes(self) -> int:
        """Return the size of all files, without the record itself."""
        return sum(entry.bytes for entry in self.files)

    def check_sizes(self, folder: Path) -> None:
        """Compare the size of every file in `folder`. Raises InputError."""
        for entry in self.files:
            file = folder / entry.path
            if not file.is_file():
                raise _damaged(folder, f"{entry.path} is missing")
            if (found := file.stat().st_size) != entry.bytes:
                raise _damaged(folder, f"{entry.path} has {found} bytes, not {entry.bytes}")

    def verify(self, folder: Path, progress: Progress) -> None:
        """Compare the size and the SHA-256 of every file in `folder`. Raises InputError."""
        self.check_sizes(folder)
        with progress.task(f"verifying {folder.name}", self.bytes) as advance:
            for entry in self.files:
                if sha256_file(folder / entry.path, advance) != entry.sha256:
                    raise _damaged(folder, f"{entry.path} does not match its SHA-256")


def write_record(folder: Path, origin: Origin, files: Iterable[FileEntry]) -> Record:
    """Write `edgekit-source.json` into `folder` and return what it says."""
    record = Record(origin, sorted(files, key=lambda entry: entry.path))
    document = {
        "schema": SCHEMA_VERSION,
        **asdict(origin),
        "files": [asdict(entry) for entry in record.files],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / RECORD_NAME, text.encode())
    return record


def read_record(folder: Path) -> Record | None:
    """Return the record in `folder`, or None where there is none. Raises InputError."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise ValueError(f"it has more than {MAX_RECORD_BYTES} bytes")
        return _parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(folder, f"{RECORD_NAME} cannot be read ({error})") from error


def _parse(document: Any) -> Record:
    if document["schema"] != SCHEMA_VERSION:
        raise ValueError(f"schema {document['schema']!r}, this edgekit reads {SCHEMA_VERSION}")
    origin = Origin(
        source=_text(document["source"]),
        revision=_optional_text(document["revision"]),
        licence=_optional_text(document["licence"]),
        upstream=[_entry(value) for value in document["upstream"]],
        tools={_text(tool): _text(version) for tool, version in document["tools"].items()},
    )
    return Record(origin, [_entry(value) for value in document["files"]])


def _entry(value: Any) -> FileEntry:
    name, size = _text(value["path"]), value["bytes"]
    if Path(name).name != name or type(size) is not int or size < 0:
        raise ValueError(f"it lists an impossible file {name!r:.80}")
    return FileEntry(name, size, _text(value["sha256"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(
        f"the model {folder} is damaged: {what}", hint="remove that folder, then pull it again"
    )
