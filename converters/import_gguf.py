"""Imports a GGUF file: dequantised weights and a rebuilt tokenizer, in the Hugging Face layout.

The weights become float32, which keeps every dequantised value exactly. Memory does not grow
with the model: rows are read, dequantised and written slab by slab. No torch is needed.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from numpy.typing import NDArray

from converters.architectures import FAMILIES, ModelShape, Role, TensorSpec
from converters.architectures.settings import Settings
from converters.gguf_config import generation_config, model_config
from converters.gguf_metadata import ARCHITECTURES, rope_factors
from converters.gguf_plan import ROPE_FACTORS, gguf_name
from converters.gguf_tokenizer import tokenizer_files
from converters.safetensors_writer import FLOAT32_BYTES, write_tensors
from edgekit.errors import InputError
from edgekit.files import disk_errors, require_space
from edgekit.gguf_header import GgufHeader, GgufTensor, read_header
from edgekit.gguf_types import TENSOR_TYPES
from edgekit.progress import NoProgress, Progress

SLAB_ELEMENTS = 2 << 20  # 8 MB of float32 at a time
SIZE_MARGIN_BYTES = 64 << 20  # the tokenizer's files and the safetensors header


def import_gguf(gguf_path: Path, out_folder: Path, *, progress: Progress | None = None) -> None:
    """Fill the existing empty folder `out_folder` with the checkpoint in `gguf_path`.

    Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
    special_tokens_map.json, README.md (name and licence) and model.safetensors (float32).

    Raises InputError for a file that is damaged, has an architecture, a tokenizer or a tensor
    type that is not supported, or misses a tensor; GateError if the disk is too small.
    """
    header = read_header(gguf_path)
    factors = _rope_factors(header)
    config = model_config(header, factors)
    shape = _model_shape(config, gguf_path)
    _check_rope_factors(gguf_path, shape, factors)
    weights = _weights(header, shape)
    documents: dict[str, dict[str, Any]] = {
        "config.json": config,
        "generation_config.json": generation_config(header),
        **tokenizer_files(header),
    }
    total_bytes = sum(weight.tensor.elements for weight in weights) * FLOAT32_BYTES
    require_space(out_folder, total_bytes + SIZE_MARGIN_BYTES)
    with disk_errors(out_folder):
        for name, document in documents.items():
            text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
            (out_folder / name).write_text(text, encoding="utf-8")
        (out_folder / "README.md").write_text(_model_card(header), encoding="utf-8")
        with (progress or NoProgress()).task("importing weights", total_bytes) as advance:
            write_tensors(
                out_folder / "model.safetensors",
                {weight.spec.name: weight.spec.shape for weight in weights},
                _slabs(gguf_path, weights),
                advance,
            )


@dataclass(frozen=True, slots=True)
class _Weight:
    """A tensor of the checkpoint, where it lies in the GGUF file, and how its rows are ordered.

    `head_dim` is None unless the rows of each head are interleaved: llama.cpp stores query and
    key of the Llama family so that the two halves of a rotary pair are neighbours.
    """

    spec: TensorSpec
    tensor: GgufTensor
    head_dim: int | None


def _model_shape(config: dict[str, Any], path: Path) -> ModelShape:
    module = importlib.import_module(
        f"converters.architectures.{FAMILIES[config['architectures'][0]]}"
    )
    shape: ModelShape = module.describe(Settings(config, f"the metadata of {path}"))
    return shape


def _weights(header: GgufHeader, shape: ModelShape) -> list[_Weight]:
    """Return the checkpoint's tensors in order. Raises InputError unless the file has just them."""
    tensors = {tensor.name: tensor for tensor in header.tensors if tensor.name != ROPE_FACTORS}
    weights = []
    for spec in shape.tensors():
        tensor = tensors.pop(gguf_name(spec), None)
        if tensor is None:
            raise InputError(f"{header.path}: the tensor {gguf_name(spec)} is missing")
        if tensor.shape != spec.shape[::-1]:
            raise InputError(
                f"{header.path}: tensor {tensor.name} has shape {list(tensor.shape)}, "
                f"its metadata says {list(spec.shape[::-1])}"
            )
        _require_dequantiser(header, tensor)
        weights.append(_Weight(spec, tensor, _interleaved_head(shape, spec.role)))
    if tensors:
        raise InputError(f"{header.path}: the tensor {min(tensors)} is not part of the model")
    return weights


def _interleaved_head(shape: ModelShape, role: Role) -> int | None:
    interleaved = ARCHITECTURES[shape.family].adjacent_pairs and role in (Role.QUERY, Role.KEY)
    return shape.head_dim if interleaved else None


def _require_dequantiser(header: GgufHeader, tensor: GgufTensor) -> None:
    block = TENSOR_TYPES[tensor.type_id]
    try:
        _dequantise(np.zeros((1, block.block_bytes), dtype=np.uint8), tensor)
    except (NotImplementedError, ValueError) as error:
        raise InputError(
            f"{header.path}: tensor {tensor.name} has type {tensor.type_name}, "
            "which cannot be dequantised"
        ) from error


def _slabs(path: Path, weights: list[_Weight]) -> Iterator[NDArray[np.float32]]:
    """Yield all weights as float32, a few rows at a time, in the checkpoint's order."""
    with path.open("rb", buffering=0) as stream:
        for weight in weights:
            yield from _tensor_slabs(path, stream, weight)


def _tensor_slabs(path: Path, stream: BinaryIO, weight: _Weight) -> Iterator[NDArray[np.float32]]:
    tensor = weight.tensor
    columns = tensor.shape[0] if weight.spec.part == "weight" else 1
    rows = tensor.elements // columns
    row_bytes = tensor.bytes // rows
    step = _slab_rows(columns, weight.head_dim)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        data = _read(path, stream, tensor, tensor.offset + first * row_bytes, count * row_bytes)
        values = _dequantise(data.reshape(count, row_bytes), tensor)
        if not np.isfinite(values).all():
            raise InputError(f"{path}: tensor {tensor.name} holds values that are not finite")
        yield values if weight.head_dim is None else _uninterleaved(values, weight.head_dim)


def _slab_rows(columns: int, head_dim: int | None) -> int:
    """Return how many rows to take at a time: whole heads where their rows are interleaved."""
    unit = head_dim or 1
    return max(1, SLAB_ELEMENTS // (columns * unit)) * unit


def _read(
    path: Path, stream: BinaryIO, tensor: GgufTensor, offset: int, size: int
) -> NDArray[np.uint8]:
    data = os.pread(stream.fileno(), size, offset)
    if len(data) != size:
        raise InputError(f"{path} ends inside tensor {tensor.name}: was it changed meanwhile?")
    return np.frombuffer(data, dtype=np.uint8)


def _dequantise(rows: NDArray[np.uint8], tensor: GgufTensor) -> NDArray[np.float32]:
    """Return the float32 values of `rows` of stored bytes, shape [rows, columns]."""
    with np.errstate(all="ignore"):  # damaged scales overflow; the result is checked
        values: NDArray[np.float32] = gguf.quants.dequantize(
            rows, gguf.GGMLQuantizationType(tensor.type_id)
        )
    return values


def _uninterleaved(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Return the rows of whole heads in the checkpoint's order: all first halves, then all second.

    The inverse of `permute` in llama.cpp's converter.
    """
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _rope_factors(header: GgufHeader) -> NDArray[np.float32] | None:
    """Return the stored factors of the rotary frequencies, float32 [head_dim / 2], if any."""
    tensor = next((t for t in header.tensors if t.name == ROPE_FACTORS), None)
    if tensor is None:
        return None
    if tensor.type_name != "F32" or header.architecture != "llama":
        raise InputError(
            f"{header.path}: {ROPE_FACTORS} is {tensor.type_name} in a {header.architecture}, "
            "F32 in a llama is supported"
        )
    with header.path.open("rb", buffering=0) as stream:
        data = _read(header.path, stream, tensor, tensor.offset, tensor.bytes)
    return data.view("<f4").astype(np.float32)


def _check_rope_factors(path: Path, shape: ModelShape, found: NDArray[np.float32] | None) -> None:
    """Raise InputError unless the configuration gives the factors that the file holds."""
    if found is None:
        return
    expected = rope_factors(shape)
    if expected is None:
        expected = np.ones(shape.head_dim // 2, dtype=np.float32)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4, atol=0):
        raise InputError(f"{path}: the factors in {ROPE_FACTORS} are not those of Llama 3.1's rule")


def _model_card(header: GgufHeader) -> str:
    """Return a README.md with the name and the licence that the file states."""
    licence = header.get("general.license", str, "unknown")
    if not re.fullmatch(r"[A-Za-z0-9.+-]{1,60}", licence):
        licence = "unknown"
    name = " ".join(header.get("general.name", str, header.path.stem).split())[:120]
    return f"---\nlicense: {licence}\n---\n\n# {name}\n\nImported from {header.path.name}.\n"
