"""From a checkpoint to its calibration text and its importance matrix, both kept in a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from converters.architectures import ModelShape, describe
from converters.calibration import OWN_TOKENS, file_text, own_text
from converters.calibration_openings import SEEDS
from converters.checkpoint import Checkpoint
from converters.importance import Importance, collect
from converters.importance_file import load_importance, save_importance
from converters.reference import Window
from edgekit.errors import InputError
from edgekit.files import sha256_file, write_atomically
from edgekit.progress import Progress

CACHE_VERSION = 3  # of the text and the matrix: also another way to sample or to count
OWN_TEXT = "text that the model wrote itself"
Engine = Literal["torch", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """An importance matrix, the file in which it is kept, and how many tokens of which kind.

    `kinds` is empty where the matrix was there already and its text is not.
    """

    importance: Importance
    file: Path
    kinds: dict[str, int]


def calibrate(
    checkpoint: Checkpoint,
    text: Path | None,
    cache_folder: Path,
    progress: Progress,
    *,
    tokens: int | None = None,
    engine: Engine = "torch",
) -> Importance:
    """Return the importance matrix of `checkpoint` on its `calibration_windows`; see `measure`."""
    found = measure(checkpoint, text, cache_folder, progress, tokens=tokens, engine=engine)
    return found.importance


def measure(
    checkpoint: Checkpoint,
    text: Path | None,
    cache_folder: Path,
    progress: Progress,
    *,
    tokens: int | None = None,
    engine: Engine = "torch",
) -> Calibration:
    """Let `engine` measure the importance matrix, unless `cache_folder` keeps it already.

    Ten artifacts of one checkpoint cost one calibration. Needs torch and transformers to write a
    text, and for their engine. Raises InputError for a text that cannot be read and a checkpoint
    that cannot be run.
    """
    shape = describe(checkpoint)
    cache = _Cache(cache_folder, checkpoint.digest(), text, tokens)
    file = cache.matrix(engine)
    kept = _kept(file, shape)
    if kept is not None:
        return Calibration(kept, file, _kinds(_kept_windows(cache, shape)))
    windows = _windows(checkpoint, cache, progress)
    source = OWN_TEXT if text is None else text.name
    token_ids = [window.token_ids for window in windows]
    importance = _collector(engine)(checkpoint, shape, token_ids, source, progress)
    importance.check(shape)
    save_importance(importance, shape, file)
    return Calibration(importance, file, _kinds(windows))


def _kept(file: Path, shape: ModelShape) -> Importance | None:
    try:
        return load_importance(file, shape) if file.is_file() else None
    except InputError:  # damaged: it is only a cache
        return None


def _kinds(windows: Iterable[Window]) -> dict[str, int]:
    """Return how many tokens there are of each kind."""
    kinds: dict[str, int] = {}
    for window in windows:
        kinds[window.kind] = kinds.get(window.kind, 0) + len(window.token_ids)
    return kinds


def _collector(engine: Engine) -> Callable[..., Importance]:
    match engine:
        case "torch":
            return collect
        case "llama.cpp":
            from converters.importance_llama import collect_from_checkpoint

            return collect_from_checkpoint


def calibration_windows(
    checkpoint: Checkpoint,
    text: Path | None,
    cache_folder: Path,
    progress: Progress,
    *,
    tokens: int | None = None,
) -> list[Window]:
    """Return the calibration text: the file `text`, UTF-8, or what `checkpoint` writes itself.

    `tokens` is about how many: without it OWN_TOKENS, or the whole file. What the checkpoint
    wrote is kept in `cache_folder`. Raises InputError.
    """
    cache = _Cache(cache_folder, checkpoint.digest(), text, tokens)
    return _windows(checkpoint, cache, progress)


def lesson_windows(
    checkpoint: Checkpoint, text: Path | None, cache_folder: Path, tokens: int, progress: Progress
) -> list[Window]:
    """Return the calibration text, and as much more of the checkpoint's own as makes `tokens`.

    Scales that are trained on the same words again and again fit these words. A file is what it
    is: all of it. Raises InputError.
    """
    cache = _Cache(cache_folder, checkpoint.digest(), text, None)
    lessons = _windows(checkpoint, cache, progress)
    while text is None and sum(len(lesson.token_ids) for lesson in lessons) < tokens:
        cache = replace(cache, part=cache.part + 1)
        lessons = lessons + _windows(checkpoint, cache, progress)
    return lessons


@dataclass(frozen=True, slots=True)
class _Cache:
    """Where what belongs to one checkpoint and one text is kept."""

    folder: Path
    checkpoint_digest: str
    text: Path | None
    tokens: int | None
    part: int = 0  # of the checkpoint's own text, which has no end

    def matrix(self, engine: Engine) -> Path:
        return self.folder / f"{self._key(engine)}.gguf"

    def windows(self) -> Path:
        return self.folder / f"{self._key('text')}.json"

    def _key(self, what: str) -> str:
        """Return a name for `what` is made of the text. Raises InputError if it is unreadable."""
        try:
            digest = sha256_file(SEEDS if self.text is None else self.text)
        except OSError as error:
            message = f"the calibration text {self.text} cannot be read: {error}"
            raise InputError(message) from error
        part = (self.part,) if self.part else ()
        whole = (CACHE_VERSION, what, self.text is None, self.tokens, digest, *part)
        return hashlib.sha256(f"{whole} {self.checkpoint_digest}".encode()).hexdigest()[:32]


def _windows(checkpoint: Checkpoint, cache: _Cache, progress: Progress) -> list[Window]:
    if cache.text is not None:
        return _spread(file_text(checkpoint, cache.text), cache.tokens)
    windows = _kept_windows(cache, describe(checkpoint))
    if not windows:
        windows = own_text(checkpoint, progress, tokens=cache.tokens or OWN_TOKENS, seed=cache.part)
        document = [[window.kind, window.token_ids] for window in windows]
        write_atomically(cache.windows(), json.dumps(document).encode())
    return windows


def _spread(windows: list[Window], tokens: int | None) -> list[Window]:
    """Return windows of about `tokens` tokens in all, from everywhere in the text."""
    longest = max(len(window.token_ids) for window in windows)
    count = len(windows) if tokens is None else min(len(windows), max(1, round(tokens / longest)))
    return [windows[number * len(windows) // count] for number in range(count)]


def _kept_windows(cache: _Cache, shape: ModelShape) -> list[Window]:
    """Return what the checkpoint wrote earlier; nothing if that is absent or damaged."""
    try:
        document = json.loads(cache.windows().read_text(encoding="utf-8"))
        return [_window(kind, ids, shape.vocabulary_size) for kind, ids in document]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _window(kind: Any, token_ids: Any, vocabulary_size: int) -> Window:
    known = all(type(token) is int and 0 <= token < vocabulary_size for token in token_ids)
    if not isinstance(kind, str) or not token_ids or not known:
        raise ValueError("not a window")
    return Window(kind, tuple(token_ids))
