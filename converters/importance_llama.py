"""Importance measured through llama.cpp: the same averages as `importance.collect`, without torch.

Each matrix's inputs are read where llama.cpp multiplies, in float32. It knows nothing of how the
GGUF file came about, but for `collect_from_checkpoint`, which writes one in float32.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape
from converters.checkpoint import Checkpoint
from converters.export_gguf import ENTRY, prepare_gguf, write_gguf
from converters.ggml import UnusableLibraryError
from converters.gguf_plan import gguf_name
from converters.importance import Importance, matrices
from converters.llama_graph import listening
from converters.recipe import Recipe
from edgekit.errors import InputError
from edgekit.files import disk_errors, require_space
from edgekit.gguf_header import read_header
from edgekit.progress import Advance, Progress


def collect_from_checkpoint(
    checkpoint: Checkpoint,
    shape: ModelShape,
    windows: Sequence[Sequence[int]],
    source: str,
    progress: Progress,
) -> Importance:
    """Do what `importance.collect` does with llama.cpp, from a float32 GGUF file that is removed.

    Raises InputError for what llama.cpp cannot run, and GateError where the disk is too small.
    """
    export = prepare_gguf(checkpoint, shape, Recipe.of("gguf", "f32"))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder, disk_errors(Path(folder)):
        require_space(Path(folder), export.plan.file_bytes)
        write_gguf(export, Path(folder), progress)
        return collect_from_gguf(Path(folder) / ENTRY, shape, windows, source, progress)


def collect_from_gguf(
    path: Path,
    shape: ModelShape,
    windows: Sequence[Sequence[int]],
    source: str,
    progress: Progress,
) -> Importance:
    """Run the model in the GGUF file `path`, of `shape`, over `windows` of token ids, and average.

    Each window is read from an empty context. Raises InputError.
    """
    read_header(path)
    tokens = sum(len(window) for window in windows)
    if not tokens:
        raise InputError("the calibration text is empty", hint="give a longer text")
    _check_ids(windows, shape)
    sums = _Sums(shape)
    try:
        with progress.task("measuring activations", tokens, unit="tokens") as advance:
            _read_all(path, windows, sums, advance)
    except UnusableLibraryError as error:
        message = f"llama.cpp cannot measure activations here: {error}"
        raise InputError(message, "let torch do it: --engine torch") from error
    return Importance(sums.means(tokens), tokens, source)


def _read_all(path: Path, windows: Sequence[Sequence[int]], sums: _Sums, advance: Advance) -> None:
    longest, threads = max(map(len, windows)), os.cpu_count() or 1
    with listening(path, longest, threads, sums.add) as reader:
        for window in windows:
            reader.read(window)
            advance(len(window))


class _Sums:
    """The sums of squares of what each matrix is multiplied with."""

    def __init__(self, shape: ModelShape) -> None:
        self._names = {gguf_name(spec): spec.name for spec in matrices(shape)}
        self._sums = {
            gguf_name(spec): np.zeros(spec.shape[-1], np.float64) for spec in matrices(shape)
        }
        self._seen = dict.fromkeys(self._sums, 0)

    def add(self, name: str, inputs: NDArray[np.float32]) -> None:
        """Add the squares of `inputs`, float32 [positions, columns]."""
        if name in self._sums:
            if inputs.shape[1] != self._sums[name].size:
                raise InputError(f"llama.cpp multiplies {name} with {inputs.shape[1]} columns")
            self._sums[name] += np.square(inputs, dtype=np.float64).sum(axis=0)
            self._seen[name] += len(inputs)

    def means(self, tokens: int) -> dict[str, NDArray[np.float32]]:
        """Return the means under the checkpoint's names. Raises InputError if any misses some."""
        for name, seen in self._seen.items():
            if seen != tokens:
                raise InputError(f"llama.cpp multiplied {name} at {seen} of {tokens} positions")
        return {
            self._names[name]: (total / tokens).astype(np.float32)
            for name, total in self._sums.items()
        }


def _check_ids(windows: Sequence[Sequence[int]], shape: ModelShape) -> None:
    largest = max(max(window, default=0) for window in windows)
    if largest >= shape.vocabulary_size:
        raise InputError(f"token {largest} is not among the model's {shape.vocabulary_size}")
