"""Checkpoint -> ONNX in one pass: a small graph, and a data file written tensor by tensor.

Nothing is held but a few slabs of rows, so memory does not grow with the model. Torch is not
needed: the graph comes from the shape, the weights from the safetensors files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, TensorSpec
from converters.checkpoint import Checkpoint
from converters.exported import Exported
from converters.importance import Importance, is_weighed
from converters.onnx_companions import write_companions
from converters.onnx_graph import decoder_model
from converters.onnx_layout import (
    ASYMMETRIC,
    BITS,
    ROTARY_COSINES,
    ROTARY_SINES,
    Layout,
    Tensor,
    context_length,
    lay_out,
)
from converters.onnx_quantize import quantise_rows, quantise_rows_asymmetric
from converters.onnx_rotary import rotary_table
from converters.onnx_verify import verify_onnx
from converters.plan import Plan
from converters.recipe import Recipe
from converters.rounding import onnx_blocks
from converters.rounding.rounded import Rounded
from converters.special_tokens import special_tokens, token_ids
from edgekit.errors import InputError
from edgekit.files import disk_errors
from edgekit.progress import Progress

ENTRY, DATA_FILE = "model.onnx", "model.onnx.data"
SLAB_WEIGHTS = 1 << 20
MAX_WORKERS = 8  # each holds a slab: bounds the memory
KEYS_AND_VALUES, FLOAT_BYTES = 2, 4
HEAD_STEP = 16  # GroupQueryAttention, onnxruntime/contrib_ops/cpu/bert


def plan_onnx(checkpoint: Checkpoint, shape: ModelShape, recipe: Recipe) -> Plan:
    """Return what `export_onnx` will write; no tensor is read.

    Raises InputError for a recipe that does not fit the model, for heads that ONNX Runtime cannot
    compute, and for a checkpoint without a usable `tokenizer.json`.
    """
    if shape.head_dim % HEAD_STEP:
        raise InputError(
            f"{checkpoint.path / 'config.json'}: heads of {shape.head_dim} values; ONNX Runtime's "
            f"attention needs a multiple of {HEAD_STEP}",
            hint="convert it to GGUF, whose engine has no such limit",
        )
    special_tokens(checkpoint, token_ids(checkpoint), shape.vocabulary_size)
    layout = lay_out(shape, recipe)
    graph_bytes = decoder_model(shape, layout, DATA_FILE).ByteSize()
    return Plan(
        "onnx",
        recipe.scheme,
        tuple(layout.planned()),
        layout.substitutions,
        shape.parameters,
        layout.data_bytes + graph_bytes,
    )


def export_onnx(
    checkpoint: Checkpoint,
    shape: ModelShape,
    recipe: Recipe,
    importance: Importance | None,
    rounded: Rounded | None,
    folder: Path,
    progress: Progress,
) -> Exported:
    """Write `model.onnx`, its data, the tokenizer and GenAI's configuration into `folder`.

    `importance` weighs the rounding errors; without it the norms' gains do. `rounded` holds
    matrices that are rounded already.
    The finished files are read back and compared with the checkpoint. Raises InputError for
    weights that no type can hold, and for a checkpoint without a tokenizer.
    """
    plan, layout = plan_onnx(checkpoint, shape, recipe), lay_out(shape, recipe)
    positions = context_length(shape, recipe)
    with disk_errors(folder):
        write_companions(checkpoint, shape, positions, folder)
        model = decoder_model(shape, layout, DATA_FILE)
        (folder / ENTRY).write_bytes(model.SerializeToString(deterministic=True))
        source = _Source(checkpoint, shape, positions, importance, rounded)
        _write_data(source, layout, folder / DATA_FILE, progress)
    verify_onnx(folder / ENTRY, checkpoint, shape, recipe, rounded)
    return Exported(
        entry=ENTRY,
        bits_per_weight=plan.bits_per_weight,
        substitutions=list(plan.substitutions),
        kv_bytes_per_token=KEYS_AND_VALUES * FLOAT_BYTES * shape.layers * shape.key_value_size,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the data comes from."""

    checkpoint: Checkpoint
    shape: ModelShape
    positions: int
    importance: Importance | None
    rounded: Rounded | None


@dataclass(frozen=True, slots=True)
class _Slab:
    """Rows `first` to `first + rows` of `spec`, which begins at `row` of the stored `tensor`."""

    tensor: Tensor
    spec: TensorSpec
    row: int
    first: int
    rows: int


def _write_data(source: _Source, layout: Layout, path: Path, progress: Progress) -> None:
    """Fill the data file, slab by slab, in as many threads as there are processors."""
    slabs = list(_slabs(layout))
    total = sum(prod(slab.spec.shape[1:]) * slab.rows for slab in slabs)
    workers = min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(workers)
    try:
        with path.open("wb") as stream:
            stream.truncate(layout.data_bytes)
        _write_rotary(source, layout, path)
        with progress.task("quantising", total, "weights") as advance:
            for count in pool.map(lambda slab: _write_slab(source, slab, path), slabs):
                advance(count)
    finally:
        pool.shutdown(cancel_futures=True)


def _slabs(layout: Layout) -> Iterator[_Slab]:
    for tensor in layout.tensors.values():
        row = 0
        for spec in tensor.sources:
            step = max(1, SLAB_WEIGHTS // prod(spec.shape[1:]))
            for first in range(0, spec.shape[0], step):
                yield _Slab(tensor, spec, row, first, min(step, spec.shape[0] - first))
            row += spec.shape[0]


def _write_slab(source: _Source, slab: _Slab, path: Path) -> int:
    """Read, convert and write one slab; return its number of weights."""
    weights = _weights(source, slab)
    tensor, row = slab.tensor, slab.row + slab.first
    parts = _stored(source, slab, weights)
    if not all(np.isfinite(part).all() for part in parts):
        raise InputError(
            f"{source.checkpoint.path}: tensor {slab.spec.name} has a weight that is not a number, "
            f"or is too large for {tensor.type}"
        )
    places = (
        (tensor.offset, tensor.data_bytes),
        (tensor.scales_offset, tensor.scales_bytes),
        (tensor.zero_points_offset, tensor.zero_points_bytes),
    )
    for part, (offset, size) in zip(parts, places, strict=False):
        _write_at(path, offset + row * (size // tensor.shape[0]), part)
    return weights.size


def _stored(source: _Source, slab: _Slab, weights: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """Return `weights` as they are stored: values, or codes, scales and any zero points."""
    tensor, rounded = slab.tensor, source.rounded
    if rounded is not None and slab.spec.name in rounded.blocks:
        return onnx_blocks.stored(rounded.blocks[slab.spec.name], slab.first, slab.rows)
    if tensor.quantised:
        importance = _counts(source, slab)
        with np.errstate(all="ignore"):  # what is not finite is refused by the caller
            if tensor.type == ASYMMETRIC:
                return quantise_rows_asymmetric(weights, importance)
            return quantise_rows(weights, BITS[tensor.type], importance)
    with np.errstate(over="ignore"):
        return (weights.astype(np.float16 if tensor.type == "f16" else np.float32),)


def _weights(source: _Source, slab: _Slab) -> NDArray[np.float32]:
    """Return the rows of a slab as they are to be stored, trained gains in place of the old."""
    if source.rounded is not None and slab.spec.name in source.rounded.gains:
        return source.rounded.gains[slab.spec.name][slab.first : slab.first + slab.rows]
    return source.checkpoint.read(slab.spec.name, slab.first, slab.rows)


def _counts(source: _Source, slab: _Slab) -> NDArray[np.float32] | None:
    """Return what each column counts: by calibration, else by the gains of the norm before it."""
    if source.importance is not None and is_weighed(slab.spec, source.shape):
        return source.importance.of(slab.spec)
    if not slab.tensor.gains:
        return None
    gains = source.checkpoint.read(slab.tensor.gains)
    return gains * gains


def _write_rotary(source: _Source, layout: Layout, path: Path) -> None:
    tables = rotary_table(source.shape, source.positions)
    for name, table in zip((ROTARY_COSINES, ROTARY_SINES), tables, strict=True):
        _write_at(path, layout.tensors[name].offset, table)


def _write_at(path: Path, offset: int, values: NDArray[np.generic]) -> None:
    """Write into the file at `offset`; every call has a handle of its own, so threads may."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.ascontiguousarray(values).data)
