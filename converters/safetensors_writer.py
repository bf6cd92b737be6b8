"""Writes a safetensors file tensor by tensor, holding none of them.

Format: https://github.com/huggingface/safetensors#format. All tensors of one file have one float
type. It knows no model: what is rounded, and whether that may be, is the caller's to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.progress import Advance

FloatType = Literal["F32", "F16", "BF16"]
ITEM_BYTES: dict[FloatType, int] = {"F32": 4, "F16": 2, "BF16": 2}
FLOAT32_BYTES = ITEM_BYTES["F32"]


def header_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: FloatType = "F32") -> bytes:
    """Return the file's beginning for tensors of `shapes`, which follow in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    slabs: Iterable[NDArray[np.float32]],
    advance: Advance,
    dtype: FloatType = "F32",
) -> None:
    """Write tensors of `shapes` to `path`, each value rounded to the nearest of `dtype`.

    `slabs` are their elements in row-major order, one tensor after another in the order of
    `shapes`, cut anywhere. `advance` is told the bytes of each slab. Raises ValueError if there
    are more or fewer elements than the shapes say.
    """
    expected = sum(map(prod, shapes.values()))
    written = 0
    with path.open("wb", buffering=0) as stream:
        stream.write(header_bytes(shapes, dtype))
        for slab in slabs:
            written += slab.size
            view = encode(slab, dtype).data.cast("B")
            while view:
                view = view[stream.write(view) :]
            advance(slab.size * ITEM_BYTES[dtype])
    if written != expected:
        raise ValueError(f"{path}: {written} elements for shapes of {expected}")


def encode(values: NDArray[np.float32], dtype: FloatType) -> NDArray[np.generic]:
    """Return `values` as `dtype`, rounded to nearest, ties to even; BF16 as its bits in uint16."""
    match dtype:
        case "F32":
            return np.ascontiguousarray(values, dtype="<f4")
        case "F16":
            with np.errstate(over="ignore"):  # too large becomes infinite, as in every library
                return np.ascontiguousarray(values, dtype="<f2")
        case "BF16":
            return _bfloat16(np.ascontiguousarray(values, dtype="<f4"))


def is_exact(values: NDArray[np.float32], dtype: FloatType) -> bool:
    """Return whether `dtype` holds each of `values` unchanged. What is not a number counts too."""
    match dtype:
        case "F32":
            return True
        case "F16":
            with np.errstate(over="ignore"):
                return np.array_equal(values, values.astype(np.float16), equal_nan=True)
        case "BF16":
            bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
            return not (bits & 0xFFFF).any()


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of float32 values, rounded; a NaN must not round to infinity."""
    bits = values.view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x0040
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")
