"""From a checkpoint to its importance matrix: by its own text or a file's, kept in a cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from converters.architectures import describe
from converters.calibration import SEEDS, file_text, own_text
from converters.checkpoint import Checkpoint
from converters.importance import Importance, collect
from converters.importance_file import load_importance, save_importance
from edgekit.errors import InputError
from edgekit.files import sha256_file
from edgekit.progress import Progress

CACHE_VERSION = 1
OWN_TEXT = "text that the model wrote itself"


def calibrate(
    checkpoint: Checkpoint, text: Path | None, cache_folder: Path, progress: Progress
) -> Importance:
    """Return the importance matrix of `checkpoint` on the file `text`, UTF-8.

    Without a file, the text is what the checkpoint writes itself. Kept in `cache_folder`, so that
    ten artifacts of one checkpoint cost one calibration. Needs torch and transformers otherwise.
    Raises InputError for a text that cannot be read and a checkpoint that cannot be loaded.
    """
    shape = describe(checkpoint)
    file = cache_folder / f"{_key(checkpoint, text)}.gguf"
    if file.is_file():
        try:
            return load_importance(file, shape)
        except InputError:  # damaged: it is only a cache
            file.unlink()
    windows = own_text(checkpoint, progress) if text is None else file_text(checkpoint, text)
    source = OWN_TEXT if text is None else text.name
    importance = collect(checkpoint, shape, [w.token_ids for w in windows], source, progress)
    importance.check(shape)
    save_importance(importance, shape, file)
    return importance


def _key(checkpoint: Checkpoint, text: Path | None) -> str:
    """Return a name for the matrix of this checkpoint and this text. Raises InputError."""
    try:
        digest = sha256_file(SEEDS if text is None else text)
    except OSError as error:
        raise InputError(f"the calibration text {text} cannot be read: {error}") from error
    whole = f"{CACHE_VERSION} {text is None} {digest} {checkpoint.digest()}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
