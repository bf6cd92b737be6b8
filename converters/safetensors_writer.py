"""Writes a safetensors file tensor by tensor, holding none of them.

Format: https://github.com/huggingface/safetensors#format. Only float32, which keeps the values of
every dequantised type exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.progress import Advance

FLOAT32_BYTES = 4


def header_bytes(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Return the file's beginning for float32 tensors of `shapes`, which follow in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + prod(shape) * FLOAT32_BYTES
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def write_float32(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    slabs: Iterable[NDArray[np.float32]],
    advance: Advance,
) -> None:
    """Write float32 tensors of `shapes` to `path`.

    `slabs` are their elements in row-major order, one tensor after another in the order of
    `shapes`, cut anywhere. `advance` is told the bytes of each slab. Raises ValueError if there
    are more or fewer elements than the shapes say.
    """
    expected = sum(map(prod, shapes.values()))
    written = 0
    with path.open("wb", buffering=0) as stream:
        stream.write(header_bytes(shapes))
        for slab in slabs:
            written += slab.size
            view = np.ascontiguousarray(slab, dtype="<f4").data.cast("B")
            while view:
                view = view[stream.write(view) :]
            advance(slab.size * FLOAT32_BYTES)
    if written != expected:
        raise ValueError(f"{path}: {written} elements for shapes of {expected}")
