"""Writes a checkpoint made from another one: an ordinary folder in the Hugging Face layout.

The weights come slab by slab and are never rounded. What the source says of its tokenizer, its
chat template, its sampling and its licence goes along. It knows neither pruning nor training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.lineage import STAGE_FILE, Stage, write_stage
from converters.safetensors_writer import (
    ITEM_BYTES,
    FloatType,
    header_bytes,
    is_exact,
    write_tensors,
)
from edgekit.files import require_space, staged_folder
from edgekit.progress import Progress

SLAB_ELEMENTS = 2 << 20  # 8 MB of float32 at a time
WEIGHTS = "model.safetensors"
COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
    "generation_config.json",
    "README*",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written.

    `slabs` yields its elements in row-major order, cut anywhere, as float32; it may be called
    more than once and must give the same each time.
    """

    shape: tuple[int, ...]
    slabs: Callable[[], Iterator[NDArray[np.float32]]]


def copied(checkpoint: Checkpoint, name: str) -> NewTensor:
    """Return the tensor `name` of `checkpoint` as it is. Raises InputError if it is absent."""
    shape = checkpoint.info(name).shape
    step = max(1, SLAB_ELEMENTS // max(1, prod(shape[1:])))

    def slabs() -> Iterator[NDArray[np.float32]]:
        for first in range(0, shape[0] if shape else 1, step):
            yield checkpoint.read(name, first, step)

    return NewTensor(shape, slabs)


def write_checkpoint(
    source: Checkpoint,
    out: Path,
    tensors: Mapping[str, NewTensor],
    *,
    config: dict[str, Any],
    stage: Stage,
    files: Mapping[str, bytes | None] | None = None,
    progress: Progress,
    replace: bool = False,
) -> Checkpoint:
    """Write a checkpoint made from `source` into the folder `out`, whole or not at all.

    `config` becomes config.json, `tensors` model.safetensors: in the source's float type if that
    holds every value exactly, else in float32. `files` are written in place of the source's; None
    leaves one out. The folder is checked against its configuration before it appears.

    Raises InputError if `out` exists and `replace` is false, or if tensors and `config` disagree;
    GateError where the disk is too small.
    """
    dtype = _float_type(source, tensors, progress)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    total_bytes = sum(map(prod, shapes.values())) * ITEM_BYTES[dtype]
    require_space(out.absolute().parent, total_bytes + len(header_bytes(shapes, dtype)))
    with staged_folder(out, replace=replace) as folder:
        write_companions(source, folder, files or {})
        _write_json(folder / "config.json", _with_dtype(config, dtype))
        with progress.task(f"writing {WEIGHTS}", total_bytes) as advance:
            slabs = (slab for tensor in tensors.values() for slab in tensor.slabs())
            write_tensors(folder / WEIGHTS, shapes, slabs, advance, dtype)
        write_stage(folder, stage)
        describe(Checkpoint.open(folder))
    return Checkpoint.open(out)


def _float_type(
    source: Checkpoint, tensors: Mapping[str, NewTensor], progress: Progress
) -> FloatType:
    """Return the one float type of `source` if it holds all values of `tensors`, else F32."""
    found = {info.dtype for info in source.tensors.values()}
    dtype: FloatType
    match sorted(found):
        case ["F16"]:
            dtype = "F16"
        case ["BF16"]:
            dtype = "BF16"
        case _:
            return "F32"
    with progress.task("checking the weights", len(tensors), unit="tensors") as advance:
        for tensor in tensors.values():
            if not all(is_exact(slab, dtype) for slab in tensor.slabs()):
                return "F32"
            advance(1)
    return dtype


def _with_dtype(config: dict[str, Any], dtype: FloatType) -> dict[str, Any]:
    """Return `config` naming the float type that the weights really have."""
    name = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    key = "dtype" if "dtype" in config else "torch_dtype"  # transformers renamed it in 4.56
    return {**config, key: name}


def write_companions(source: Checkpoint, folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Write into `folder` what lies beside the weights of `source`: its tokenizer, its licence.

    `files` are written in place of the source's; None leaves one out.
    """
    for pattern in COMPANIONS:
        for file in sorted(source.path.glob(pattern)):
            if file.is_file() and file.name not in files:
                shutil.copyfile(file, folder / file.name)
    _state_licence(source, folder)
    for name, data in files.items():
        if Path(name).name != name or name in ("config.json", WEIGHTS, STAGE_FILE):
            raise ValueError(f"{name!r} is not a companion file")
        if data is not None:
            (folder / name).write_bytes(data)


def _state_licence(source: Checkpoint, folder: Path) -> None:
    """Let the model card state the licence where only the record of a download said it.

    The record itself does not go along: it lists the hashes of other files.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if source.licence == "unknown" or "\nlicense:" in text[:4096]:
        return
    entry = f"license: {source.licence}\n"
    rest = text.removeprefix("---\n")
    front = f"---\n{entry}" if rest != text else f"---\n{entry}---\n\n"
    card.write_text(front + rest, encoding="utf-8")


def _write_json(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")
