"""Between ONNX's MatMulNBits codes and the grids: int4 is ggml's Q4_0 grid in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.onnx_quantize import (
    BLOCK,
    pack_pairs,
    quantise_rows,
    quantise_rows_asymmetric,
    unpack_pairs,
)
from converters.rounding.grids import GRIDS, Blocks

SYMMETRIC, ASYMMETRIC = GRIDS["q4_0"], GRIDS["int4_asymmetric"]


def start_blocks(
    weights: NDArray[np.float32], type_name: str, importance: NDArray[np.float32] | None = None
) -> Blocks:
    """Return `weights`, float32 [rows, columns], as the exporter rounds them by itself.

    `type_name` is int4 or int4_asymmetric.
    """
    if type_name != ASYMMETRIC.name:
        codes, scales = quantise_rows(weights, 4, importance)
        return Blocks(SYMMETRIC, unpack_pairs(codes).reshape(weights.shape), scales)
    codes, scales, packed = quantise_rows_asymmetric(weights, importance)
    zero_points = unpack_pairs(packed)[:, : scales.shape[1]]
    codes = unpack_pairs(codes).reshape(weights.shape)
    return Blocks(ASYMMETRIC, codes, scales, zero_points=zero_points)


def stored(blocks: Blocks, first: int, rows: int) -> tuple[NDArray[Any], ...]:
    """Return rows `first` to `first + rows` as the quantiser returns codes, scales and any zero
    points."""
    part = blocks.rows(first, rows)
    packed = pack_pairs(part.codes).reshape(len(part.codes), -1, BLOCK // 2)
    zero_points = () if part.zero_points is None else (pack_pairs(part.zero_points),)
    return packed, part.scales, *zero_points
