"""From a checkpoint to its calibration text and its importance matrix, both kept in a cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from converters.architectures import describe
from converters.calibration import OWN_TOKENS, file_text, own_text
from converters.calibration_openings import SEEDS
from converters.checkpoint import Checkpoint
from converters.importance import Importance, collect
from converters.importance_file import load_importance, save_importance
from converters.reference import Window
from edgekit.errors import InputError
from edgekit.files import sha256_file, write_atomically
from edgekit.progress import Progress

CACHE_VERSION = 2  # of the text and the matrix: also another way to sample or to count
OWN_TEXT = "text that the model wrote itself"


def calibrate(
    checkpoint: Checkpoint,
    text: Path | None,
    cache_folder: Path,
    progress: Progress,
    *,
    tokens: int | None = None,
) -> Importance:
    """Return the importance matrix of `checkpoint` on its `calibration_windows`.

    Kept in `cache_folder`, so that ten artifacts of one checkpoint cost one calibration. Needs
    torch and transformers otherwise. Raises InputError for a text that cannot be read and a
    checkpoint that cannot be loaded.
    """
    shape = describe(checkpoint)
    file = cache_folder / f"{_key(checkpoint, text, tokens)}.gguf"
    if file.is_file():
        try:
            return load_importance(file, shape)
        except InputError:  # damaged: it is only a cache
            file.unlink()
    windows = calibration_windows(checkpoint, text, cache_folder, progress, tokens=tokens)
    source = OWN_TEXT if text is None else text.name
    importance = collect(checkpoint, shape, [w.token_ids for w in windows], source, progress)
    importance.check(shape)
    save_importance(importance, shape, file)
    return importance


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
    if text is not None:
        return _spread(file_text(checkpoint, text), tokens)
    file = cache_folder / f"{_key(checkpoint, None, tokens)}.json"
    windows = _load(file, describe(checkpoint).vocabulary_size)
    if not windows:
        windows = own_text(checkpoint, progress, tokens=tokens or OWN_TOKENS)
        write_atomically(file, json.dumps([[w.kind, w.token_ids] for w in windows]).encode())
    return windows


def _spread(windows: list[Window], tokens: int | None) -> list[Window]:
    """Return windows of about `tokens` tokens in all, from everywhere in the text."""
    longest = max(len(window.token_ids) for window in windows)
    count = len(windows) if tokens is None else min(len(windows), max(1, round(tokens / longest)))
    return [windows[number * len(windows) // count] for number in range(count)]


def _load(file: Path, vocabulary_size: int) -> list[Window]:
    """Return the windows in `file`; none if it is absent or damaged: it is only a cache."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return [_window(kind, token_ids, vocabulary_size) for kind, token_ids in document]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _window(kind: Any, token_ids: Any, vocabulary_size: int) -> Window:
    known = all(type(token) is int and 0 <= token < vocabulary_size for token in token_ids)
    if not isinstance(kind, str) or not token_ids or not known:
        raise ValueError("not a window")
    return Window(kind, tuple(token_ids))


def _key(checkpoint: Checkpoint, text: Path | None, tokens: int | None) -> str:
    """Return a name for what is made of this checkpoint and this text. Raises InputError."""
    try:
        digest = sha256_file(SEEDS if text is None else text)
    except OSError as error:
        raise InputError(f"the calibration text {text} cannot be read: {error}") from error
    whole = f"{CACHE_VERSION} {text is None} {tokens} {digest} {checkpoint.digest()}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
