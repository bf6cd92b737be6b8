"""From a checkpoint to its calibration text and its importance matrix, both kept in a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

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

CACHE_VERSION = 2  # of the text and the matrix: also another way to sample or to count
OWN_TEXT = "text that the model wrote itself"
Engine = Literal["torch", "llama.cpp"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


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
    file = cache_folder / f"{_key(checkpoint, text, tokens, engine)}.gguf"
    kept = _kept(file, shape)
    if kept is not None:
        known = _kept_windows(checkpoint, cache_folder, tokens) if text is None else []
        return Calibration(kept, file, _kinds(known))
    windows = calibration_windows(checkpoint, text, cache_folder, progress, tokens=tokens)
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
    if text is not None:
        return _spread(file_text(checkpoint, text), tokens)
    windows = _kept_windows(checkpoint, cache_folder, tokens)
    if not windows:
        windows = own_text(checkpoint, progress, tokens=tokens or OWN_TOKENS)
        file = _windows_file(checkpoint, cache_folder, tokens)
        write_atomically(file, json.dumps([[w.kind, w.token_ids] for w in windows]).encode())
    return windows


def _spread(windows: list[Window], tokens: int | None) -> list[Window]:
    """Return windows of about `tokens` tokens in all, from everywhere in the text."""
    longest = max(len(window.token_ids) for window in windows)
    count = len(windows) if tokens is None else min(len(windows), max(1, round(tokens / longest)))
    return [windows[number * len(windows) // count] for number in range(count)]


def _windows_file(checkpoint: Checkpoint, cache_folder: Path, tokens: int | None) -> Path:
    return cache_folder / f"{_key(checkpoint, None, tokens)}.json"


def _kept_windows(checkpoint: Checkpoint, cache_folder: Path, tokens: int | None) -> list[Window]:
    """Return what the checkpoint wrote earlier; nothing if that is absent or damaged."""
    vocabulary_size = describe(checkpoint).vocabulary_size
    try:
        file = _windows_file(checkpoint, cache_folder, tokens)
        document = json.loads(file.read_text(encoding="utf-8"))
        return [_window(kind, token_ids, vocabulary_size) for kind, token_ids in document]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _window(kind: Any, token_ids: Any, vocabulary_size: int) -> Window:
    known = all(type(token) is int and 0 <= token < vocabulary_size for token in token_ids)
    if not isinstance(kind, str) or not token_ids or not known:
        raise ValueError("not a window")
    return Window(kind, tuple(token_ids))


def _key(checkpoint: Checkpoint, text: Path | None, tokens: int | None, maker: str = "") -> str:
    """Return a name for what `maker` makes of this checkpoint and this text. Raises InputError."""
    try:
        digest = sha256_file(SEEDS if text is None else text)
    except OSError as error:
        raise InputError(f"the calibration text {text} cannot be read: {error}") from error
    whole = f"{CACHE_VERSION} {maker} {text is None} {tokens} {digest} {checkpoint.digest()}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
