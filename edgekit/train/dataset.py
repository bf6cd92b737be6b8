"""The data set: every record checked, split by its content, and kept as tokens on disk.

One pass over the files does all of it, before the first step. What is held out never takes part in
training: records are divided by a hash of their words, so that equal ones are never on both sides.
Tokens lie in a temporary file that no name leads to, so no kill can leave a half-written one.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.files import disk_errors, make_folder, sha256_file
from edgekit.progress import Progress
from edgekit.train.configuration import DataSection
from edgekit.train.duplicates import NearDuplicates, content_hash
from edgekit.train.examples import Encoder, Example
from edgekit.train.personal_data import PersonalData
from edgekit.train.records import (
    Record,
    place_of,
    read_chats,
    read_preferences,
    read_texts,
    unit,
)

LEARNT = np.uint32(1 << 31)  # the bit of a stored token that says whether it is learnt
MOST_PLACES = 20
READERS = {"chat": read_chats, "text": read_texts, "preference": read_preferences}

Read = Callable[[Path], Iterable[Record]]
"""Yields the records of a file. Raises InputError at the first bad one."""


@dataclass(slots=True)
class Report:
    """What was found in the data. `skipped`: too long, by configuration. `duplicates`: records
    that are like an earlier one but for case, spaces and punctuation; `near_duplicates`: similar
    ones beside those; `straddling` of them lie on both sides of the split. `leaking`: training
    records left out because the evaluation files have them. `first_duplicate`: one, in words.
    `personal_data`: what of it was found, by kind (see `PersonalData.to_dict`)."""

    records: int = 0
    skipped: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    straddling: int = 0
    leaking: int = 0
    first_duplicate: str = ""
    personal_data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Part:
    """The examples of one side of the split: their `lengths` and `targets` in tokens.

    `stored` has the tokens of all, the example's from `starts` on; `places` are line numbers with
    the number of the file above their 40th bit.
    """

    files: Sequence[Path]
    lengths: array[int] = field(default_factory=lambda: array("q"))
    targets: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    places: array[int] = field(default_factory=lambda: array("q"))
    records: int = 0
    stored: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))

    def example(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return token ids and which of them are learnt, both [length]."""
        first = self.starts[index]
        stored = self.stored[first : first + self.lengths[index]]
        return (stored & ~LEARNT).astype(np.int64), (stored & LEARNT) != 0

    def named(self, indices: Sequence[int]) -> str:
        """Return the files and lines of examples in words: `a.jsonl lines 3, 17; b.jsonl line 1`"""
        lines: dict[int, list[int]] = {}
        for place in sorted({self.places[index] for index in indices}):
            lines.setdefault(place >> 40, []).append(place & ((1 << 40) - 1))
        return "; ".join(_named(self.files[file], found) for file, found in lines.items())

    def add(self, example: Example, start: int, file: int, line: int) -> None:
        """Take note of an example that is stored from `start` on."""
        self.lengths.append(len(example.token_ids))
        self.targets.append(example.targets)
        self.starts.append(start)
        self.places.append(file << 40 | line)


@dataclass(frozen=True, slots=True)
class DataSet:
    """Both parts, and what was found."""

    training: Part
    evaluation: Part
    report: Report


def data_files(section: DataSection) -> list[Path]:
    """Return the files in the order in which they are read."""
    return [*section.evaluation_files, *section.files]


def records_of(section: DataSection, file: Path) -> Iterator[Record]:
    """Yield the records of one of the section's files. Raises InputError at the first bad one."""
    return READERS[section.kind](file)


def training_records(section: DataSection) -> Iterator[Record]:
    """Yield the records that training may see: none that is held out, however it is written.

    Raises InputError at the first bad record.
    """
    apart = {
        content_hash(record.text)
        for file in section.evaluation_files
        for record in records_of(section, file)
    }
    for file in section.files:
        for record in records_of(section, file):
            if content_hash(record.text) not in apart and not is_held_out(section, record):
                yield record


def is_held_out(section: DataSection, record: Record) -> bool:
    """Return whether a record of `files` is judged by, not learnt: by a hash of its words.

    Of a preference those of its prompt alone: its pairs lie on one side. With evaluation files
    that is nobody's lot; those have what is judged by.
    """
    key = content_hash(record.text if record.prompt is None else record.prompt)
    return not section.evaluation_files and key < section.evaluation_share * 2**64


def digest_of(section: DataSection, progress: Progress) -> str:
    """Return the SHA-256 over the files' hashes, in their order; names do not count."""
    files, total = data_files(section), hashlib.sha256()
    with progress.task("hashing the data", sum(f.stat().st_size for f in files)) as advance:
        for file in files:
            try:
                total.update(f"{sha256_file(file, advance)}\n".encode())
            except OSError as error:
                raise InputError(f"{file} cannot be read: {error}") from error
    return total.hexdigest()


def read_data(
    section: DataSection, encoder: Encoder, vocabulary: int, folder: Path, progress: Progress,
    read: Read | None = None,
) -> DataSet:  # fmt: skip
    """Check every record of the files, and return the data set.

    `read` yields the records of a file, by default as the section's kind, chats or texts, says.
    `vocabulary` is how many tokens the model knows. Tokens take 4 bytes each on the disk of
    `folder`. Raises InputError for the first bad record, with its line, and where one side of the
    split would be empty; GateError where the disk is too small.
    """
    make_folder(folder)
    with disk_errors(folder):
        stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the data set
    files = data_files(section)
    read = read or READERS[section.kind]
    reading = _Reading(section, encoder, vocabulary, files, stream)
    with progress.task("reading the data", None, "records") as advance, disk_errors(folder):
        for number, file in enumerate(files):
            for record in read(file):
                reading.take(record, number)
                advance(1)
        stream.flush()
    return reading.finish()


class _Reading:
    def __init__(
        self, section: DataSection, encoder: Encoder, vocabulary: int, files: Sequence[Path],
        stream: IO[bytes],
    ) -> None:  # fmt: skip
        self._section, self._encoder, self._vocabulary = section, encoder, vocabulary
        self._stream, self._position = stream, 0
        self._near, self._report = NearDuplicates(), Report()
        self._personal = PersonalData(section.personal_data)
        self._training, self._evaluation = Part(files), Part(files)
        self._seen: dict[int, int] = {}
        self._held_out = bytearray()  # for each record that was shown, whether it is held out
        self._where = array("q")

    def take(self, record: Record, file: int) -> None:
        self._personal.look(record)
        examples = self._encoder.examples(record)
        self._report.records += 1
        if not examples:
            self._report.skipped += 1
            return
        key = content_hash(record.text)
        apart = self._section.evaluation_files
        held_out = file < len(apart) or is_held_out(self._section, record)
        self._compare(record, file, key, held_out)
        if apart and not held_out and self._held_out[self._seen[key]]:
            self._report.leaking += 1
            return
        part = self._evaluation if held_out else self._training
        part.records += 1
        for example in examples:
            part.add(example, self._position, file, record.line)
            self._store(example, record)

    def _compare(self, record: Record, file: int, key: int, is_held_out: bool) -> None:
        """Count what is like an earlier record."""
        number = len(self._held_out)
        self._held_out.append(is_held_out)
        self._where.append(file << 40 | record.line)
        like = self._near.add(record.text)
        first = self._seen.setdefault(key, number)
        if first != number:
            self._report.duplicates += 1
            like = first
        elif like is not None:
            self._report.near_duplicates += 1
            self._report.straddling += self._held_out[like] != is_held_out
        if like is not None and not self._report.first_duplicate:
            earlier = self._where[like]
            earlier_place = place_of(self._training.files[earlier >> 40], earlier & ((1 << 40) - 1))
            self._report.first_duplicate = f"{record.where} is like {earlier_place}"

    def _store(self, example: Example, record: Record) -> None:
        ids = np.array(example.token_ids, dtype=np.uint32)
        if int(ids.max()) >= self._vocabulary:
            raise InputError(
                f"{record.where}: the tokenizer makes token {int(ids.max())} of it, and the model "
                f"has {self._vocabulary}",
                hint="tokenizer and model do not belong together",
            )
        ids |= np.where(np.array(example.learnt), LEARNT, np.uint32(0))
        self._stream.write(ids.tobytes())
        self._position += len(ids)

    def finish(self) -> DataSet:
        for part, name in ((self._training, "training"), (self._evaluation, "evaluation")):
            if not part.lengths:
                raise InputError(
                    f"of {self._report.records} records none is left for {name}",
                    hint="give more records, another evaluation_share, or evaluation_files",
                )
            part.stored = np.memmap(self._stream, dtype=np.uint32, mode="r")
        self._report.personal_data = self._personal.to_dict()
        return DataSet(self._training, self._evaluation, self._report)


def _named(file: Path, lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:MOST_PLACES]))
    more = f" and {len(lines) - MOST_PLACES} more" if len(lines) > MOST_PLACES else ""
    return f"{file.name} {unit(file)}{'s' if len(lines) > 1 else ''} {shown}{more}"
