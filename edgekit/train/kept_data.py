"""A data set kept for the next start: an interrupted run need not read its records again.

The tokens lie in a file of their own, so that they can be mapped; the index is written after them,
so its existence says that they are whole. It knows no records.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.files import disk_errors, make_folder
from edgekit.tensors_file import load_tensors, save_tensors
from edgekit.train.dataset import DataSet, Part, Report

if TYPE_CHECKING:
    import torch

TOKENS, INDEX = "tokens.bin", "index.safetensors"
TOKENS_AT_ONCE = 1 << 20
COLUMNS = ("lengths", "targets", "starts", "places")


def save_data(folder: Path, data: DataSet) -> None:
    """Keep `data` in `folder`. Raises GateError where the disk is too small."""
    import torch

    stored = data.training.stored
    make_folder(folder)
    temporary = folder / f".{TOKENS}.{os.getpid()}"
    try:
        with disk_errors(folder), temporary.open("wb") as stream:
            for first in range(0, len(stored), TOKENS_AT_ONCE):
                stream.write(stored[first : first + TOKENS_AT_ONCE].tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, folder / TOKENS)
    finally:
        temporary.unlink(missing_ok=True)
    parts = {"training": data.training, "evaluation": data.evaluation}
    columns = {
        f"{name}.{column}": torch.tensor(getattr(part, column), dtype=torch.int64)
        for name, part in parts.items()
        for column in COLUMNS
    }
    document = {
        "tokens": len(stored),
        "records": [part.records for part in parts.values()],
        "report": asdict(data.report),
    }
    save_tensors(folder / INDEX, columns, document)


def load_data(folder: Path, files: Sequence[Path]) -> DataSet | None:
    """Return what `save_data` kept in `folder`, of `files`; None if it is absent or damaged."""
    found = load_tensors(folder / INDEX)
    tokens = folder / TOKENS
    if found is None or not tokens.is_file():
        return None
    columns, document = found
    if tokens.stat().st_size != 4 * document["tokens"]:
        return None
    stored = np.memmap(tokens, dtype=np.uint32, mode="r")
    training, evaluation = (
        Part(
            files,
            **{column: _column(columns[f"{name}.{column}"]) for column in COLUMNS},
            records=records,
            stored=stored,
        )
        for name, records in zip(("training", "evaluation"), document["records"], strict=True)
    )
    return DataSet(training, evaluation, Report(**document["report"]))


def _column(values: torch.Tensor) -> array[int]:
    return array("q", values.numpy().tobytes())
