"""Lessons: the text that a student is healed with, taught once by the original and kept.

The text is what the original writes itself (see `converters.calibration`), or a file. A tenth of
it is held out. It lies in a folder under a name that says all it depends on, so that a second
run, with other settings, costs no second pass.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from converters.calibration import OWN_TOKENS, WINDOW_TOKENS, file_text, own_text
from converters.checkpoint import Checkpoint
from converters.reference import Passage, Window, encode, load_tokenizer
from edgekit.errors import InputError
from edgekit.files import require_space, sha256_file
from edgekit.progress import Progress
from edgekit.train.hardware import Hardware
from edgekit.train.held_out import HeldOut, ask_teacher
from edgekit.train.loss import TOP_TOKENS
from edgekit.train.taught import BYTES_PER_TOKEN, TaughtText, load_shard, save_shard, teach
from edgekit.train.teacher import Teacher
from edgekit.train.windows_file import load_windows, save_windows

if TYPE_CHECKING:
    import torch

VERSION = 1
SHARD_TOKENS = OWN_TOKENS
HELD_OUT_EVERY, HELD_OUT_PLACE = 10, 4
HELD_OUT_TOKENS = 3072  # more would cost time at every look and hardly be more certain
OWN_SEED = 1000  # not the calibration's: what is rounded by one text is judged by another
OWN_TEXT = "text that the original wrote itself"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the text comes from: a UTF-8 file, or `own_tokens` tokens of the original's own."""

    file: Path | None = None
    own_tokens: int = 2 * OWN_TOKENS

    @property
    def name(self) -> str:
        """Return what it is, for people."""
        return OWN_TEXT if self.file is None else self.file.name


@dataclass(frozen=True, slots=True)
class Lessons:
    """Text to learn from, and text of the same source that is never learnt from."""

    taught: TaughtText
    held_out: HeldOut


def prepare(
    student: Checkpoint,
    original: Checkpoint,
    kept: Sequence[int] | None,
    source: Source,
    folder: Path,
    hardware: Hardware,
    progress: Progress,
) -> Lessons:
    """Return the lessons for `student`; what is in `folder` already is not made again.

    Each shard is written whole or not at all, so that a kill costs one shard at most. `kept` is
    as in `Teacher`. Raises InputError for a text that is too short to hold any of it out.
    """
    maker = _Maker(student, original, kept, source, folder, hardware, progress)
    return Lessons(TaughtText(maker.shards()), maker.held_out())


def key(student: Checkpoint, original: Checkpoint, source: Source) -> str:
    """Return a name for the lessons: 32 hexadecimal digits of all that they depend on.

    Raises InputError if the text cannot be read.
    """
    try:
        text = "" if source.file is None else sha256_file(source.file)
    except OSError as error:
        raise InputError(f"the text {source.file} cannot be read: {error}") from error
    tokenizer = sha256_file(student.path / "tokenizer.json")
    parts = [VERSION, original.digest(), tokenizer, text, source.own_tokens, TOP_TOKENS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class _Maker:
    def __init__(
        self, student: Checkpoint, original: Checkpoint, kept: Sequence[int] | None,
        source: Source, folder: Path, hardware: Hardware, progress: Progress,
    ) -> None:  # fmt: skip
        self._student, self._original, self._kept = student, original, kept
        self._source, self._folder = source, folder
        self._hardware, self._progress = hardware, progress
        self._teacher = Teacher(original, kept, hardware)

    def shards(self) -> list[dict[str, torch.Tensor]]:
        """Return every shard of what is trained on, made where it is missing."""
        files = [self._folder / f"taught-{i:04}.safetensors" for i in range(self._count())]
        missing = sum(not file.is_file() for file in files)
        require_space(self._folder, missing * SHARD_TOKENS * BYTES_PER_TOKEN)
        return [self._shard(number, file) for number, file in enumerate(files)]

    def held_out(self) -> HeldOut:
        """Return the held-out text with the original's answers. Raises InputError."""
        file = self._folder / "held-out.safetensors"
        found = HeldOut.load(file)
        if found is None:
            found = self._asked(list(self._held_out_windows()))
            found.save(file)
        return found

    def _shard(self, number: int, file: Path) -> dict[str, torch.Tensor]:
        shard = load_shard(file)
        if shard is None:
            windows = [w for i, w in enumerate(self._text(number)) if not _is_held_out(i)]
            total = sum(len(window.token_ids) for window in windows)
            with self._progress.task("asking the original", total, "tokens") as advance:
                shard = teach(windows, self._teacher.logits, self._hardware, self._size, advance)
            save_shard(file, shard)
        return shard

    def _asked(self, windows: list[Window]) -> HeldOut:
        if not windows:
            raise InputError(
                f"the text has fewer than {HELD_OUT_PLACE + 1} windows of {WINDOW_TOKENS} tokens",
                hint="give a longer text",
            )
        total = sum(len(window.token_ids) for window in windows)
        with self._progress.task("asking the original: held-out text", total, "tokens") as advance:
            return ask_teacher(windows, self._teacher.logits_of, advance)

    def _held_out_windows(self) -> Iterator[Window]:
        tokens = 0
        for number in range(self._count()):
            for i, window in enumerate(self._text(number)):
                if _is_held_out(i) and tokens < HELD_OUT_TOKENS:
                    tokens += len(window.token_ids)
                    yield window

    def _count(self) -> int:
        return max(1, math.ceil(self._tokens / SHARD_TOKENS))

    @property
    def _tokens(self) -> int:
        if self._source.file is None:
            return self._source.own_tokens
        return sum(len(window.token_ids) for window in self._file_windows)

    @property
    def _size(self) -> int:
        return int(self._student.config["vocab_size"])

    @cached_property
    def _file_windows(self) -> list[Window]:
        assert self._source.file is not None  # noqa: S101 - for the type checker
        found = file_text(self._student, self._source.file, tokens=self._window_tokens)
        return [window for window in found if len(window.token_ids) > 1]

    @property
    def _window_tokens(self) -> int:
        return min(WINDOW_TOKENS, int(self._student.config.get("max_position_embeddings", 512)))

    def _text(self, number: int) -> list[Window]:
        """Return the windows of shard `number`, in the student's tokens."""
        if self._source.file is not None:
            windows = self._file_windows
            per_shard = math.ceil(len(windows) / self._count())
            return windows[number * per_shard : (number + 1) * per_shard]
        file = self._folder / f"text-{number:04}.safetensors"
        found = load_windows(file)
        if found is None:
            found = self._written(number)
            save_windows(file, found)
        return found

    def _written(self, number: int) -> list[Window]:
        tokens = min(SHARD_TOKENS, self._source.own_tokens - number * SHARD_TOKENS)
        seed = OWN_SEED * (number + 1)
        windows = own_text(self._original, self._progress, tokens=tokens, seed=seed)
        if self._kept is None:
            return windows
        theirs, ours = load_tokenizer(self._original), load_tokenizer(self._student)
        texts = [theirs.decode(list(w.token_ids), skip_special_tokens=False) for w in windows]
        again = [encode(ours, Passage("own", text, special=True)) for text in texts]
        return [
            Window(window.kind, tuple(ids[: self._window_tokens]))
            for window, ids in zip(windows, again, strict=True)
            if len(ids) > 1
        ]


def _is_held_out(place: int) -> bool:
    return place % HELD_OUT_EVERY == HELD_OUT_PLACE
