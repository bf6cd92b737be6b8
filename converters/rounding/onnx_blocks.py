"""Between ONNX's MatMulNBits codes and the grids: int4 is ggml's Q4_0 grid in another order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converters.onnx_quantize import BLOCK, quantise_rows
from converters.rounding.grids import GRIDS, Blocks

GRID = "q4_0"


def start_blocks(
    weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> Blocks:
    """Return `weights`, float32 [rows, columns], as the int4 exporter rounds them by itself."""
    codes, scales = quantise_rows(weights, 4, importance)
    pairs = np.stack([codes & 15, codes >> 4], axis=-1)
    return Blocks(GRIDS[GRID], pairs.reshape(weights.shape), scales)


def stored(blocks: Blocks, first: int, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return rows `first` to `first + rows` as `quantise_rows` returns codes and scales."""
    codes = blocks.codes[first : first + rows]
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)
    return packed.reshape(len(codes), -1, BLOCK // 2), blocks.scales[first : first + rows]
