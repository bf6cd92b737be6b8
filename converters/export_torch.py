"""Checkpoint -> a folder that transformers loads as a model of bitsandbytes, in one pass.

The weights are rounded in numpy, slab by slab, so memory does not grow with the model and
neither torch nor bitsandbytes is needed to convert.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape
from converters.checkpoint import Checkpoint
from converters.exported import Exported
from converters.importance import Importance
from converters.plan import Plan
from converters.recipe import Recipe
from converters.safetensors_writer import encode
from converters.special_tokens import special_tokens, token_ids
from converters.torch_config import write_companions
from converters.torch_layout import Layout, Tensor, lay_out
from converters.torch_quantize import int8_rows, nf4_blocks
from edgekit.bitsandbytes_layout import FLOAT_NAMES, NF4_BLOCK, NF4_LEVELS, nf4_state
from edgekit.errors import InputError
from edgekit.files import disk_errors
from edgekit.progress import Advance, Progress

ENTRY = "model.safetensors"
SLAB_WEIGHTS = 1 << 20
KEYS_AND_VALUES = 2
Piece = tuple[str, NDArray[Any]]
"""A name in the file, and the next values of it."""


def plan_torch(
    checkpoint: Checkpoint, shape: ModelShape, recipe: Recipe, importance: Importance | None = None
) -> Plan:
    """Return what `export_torch` will write; no tensor is read.

    Raises InputError for a recipe that does not fit the model, for an importance matrix, which
    the grids of bitsandbytes cannot use, and for a checkpoint without a usable `tokenizer.json`.
    """
    if importance is not None:
        raise InputError(
            "the torch format has no use for an importance matrix: bitsandbytes' scales are the "
            "largest weight of a row or block",
            hint="convert without it, or to gguf or onnx",
        )
    special_tokens(checkpoint, token_ids(checkpoint), shape.vocabulary_size)
    layout = lay_out(shape, recipe)
    return Plan(
        "torch",
        recipe.scheme,
        tuple(layout.planned()),
        layout.substitutions,
        shape.parameters,
        layout.file_bytes,
    )


def export_torch(
    checkpoint: Checkpoint, shape: ModelShape, recipe: Recipe, folder: Path, progress: Progress
) -> Exported:
    """Write `model.safetensors`, `config.json` and the tokenizer's files into `folder`.

    Raises InputError for weights that no type can hold, and for a checkpoint without a tokenizer.
    """
    plan, layout = plan_torch(checkpoint, shape, recipe), lay_out(shape, recipe)
    with disk_errors(folder):
        write_companions(checkpoint, shape, layout, folder)
        _write_weights(checkpoint, layout, folder / ENTRY, progress)
    return Exported(
        entry=ENTRY,
        bits_per_weight=plan.bits_per_weight,
        substitutions=list(plan.substitutions),
        kv_bytes_per_token=cache_bytes_per_token(shape),
    )


def cache_bytes_per_token(shape: ModelShape) -> int:
    """Return the KV cache's cost of one token on a processor, where it is float32."""
    return KEYS_AND_VALUES * 4 * shape.layers * shape.key_value_size


def _write_weights(checkpoint: Checkpoint, layout: Layout, path: Path, progress: Progress) -> None:
    total = sum(prod(tensor.spec.shape) for tensor in layout.tensors)
    ends = dict(layout.offsets)  # where the next piece of each part goes
    with path.open("wb") as stream, progress.task("quantising", total, "weights") as advance:
        stream.write(layout.header)
        stream.truncate(layout.file_bytes)
        for tensor in layout.tensors:
            for name, values in _pieces(checkpoint, layout, tensor, advance):
                stream.seek(ends[name])
                ends[name] += stream.write(np.ascontiguousarray(values).data.cast("B"))


def _pieces(
    checkpoint: Checkpoint, layout: Layout, tensor: Tensor, advance: Advance
) -> Iterator[Piece]:
    """Yield every piece of a tensor's parts; those of one part come in order."""
    rows = tensor.spec.shape[0]
    # whole blocks begin with each slab, whatever the length of a row
    step = max(1, SLAB_WEIGHTS // prod(tensor.spec.shape[1:]) // NF4_BLOCK) * NF4_BLOCK
    yield from _facts(layout, tensor)
    for first in range(0, rows, step):
        weights = checkpoint.read(tensor.spec.name, first, step)
        if not np.isfinite(weights).all():
            raise InputError(
                f"{checkpoint.path}: tensor {tensor.spec.name} has a weight that is not a number"
            )
        yield from _rounded(layout, tensor, weights)
        advance(weights.size)


def _facts(layout: Layout, tensor: Tensor) -> Iterator[Piece]:
    """Yield what a matrix has once: how its codes are to be read."""
    name = tensor.spec.name
    match tensor.kind:
        case "int8":
            # 0 says that codes lie row by row, the only form that is left
            yield f"{name}_format", np.zeros(1, dtype=np.uint8)
        case "nf4":
            rows, columns = tensor.spec.shape
            state = nf4_state(rows, columns, layout.float_name)
            yield f"{name}.quant_map", np.array(NF4_LEVELS, dtype="<f4")
            yield f"{name}.quant_state.bitsandbytes__nf4", np.frombuffer(state, dtype=np.uint8)


def _rounded(layout: Layout, tensor: Tensor, weights: NDArray[np.float32]) -> Iterator[Piece]:
    """Yield codes and scales of a slab, or its values in the float type."""
    name = tensor.spec.name
    match tensor.kind:
        case "int8":
            codes, scales = int8_rows(weights)
            yield name, codes
            yield f"{name.removesuffix('weight')}SCB", scales.astype("<f4")
        case "nf4":
            packed, scales = nf4_blocks(weights)
            yield name, packed
            yield f"{name}.absmax", scales.astype("<f4")
        case None:
            yield name, encode(weights, FLOAT_NAMES[layout.float_name])
