"""Symmetric block quantisation of a weight matrix for MatMulNBits and GatherBlockQuantized.

It knows numbers only: no tensor names, no files, no graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
# Codes are worked on in pieces of this many weights, so that every temporary stays in the cache.
PIECE_WEIGHTS = 1 << 17
# Where the largest weight of a block may land on the grid of 4-bit codes, from -7 - 0.7 to -8.5.
FOUR_BIT_ENDS = (7.2, 7.6, 8.0, 8.4)
# A float16 keeps 11 bits down to 2**-14; scales this far above lose nothing that matters.
SMALLEST_HALF_SCALE = 2.0**-9
LARGEST_HALF_SCALE = 65504.0


@dataclass(frozen=True, slots=True)
class QuantisedRows:
    """Rows of a matrix as packed codes and block scales.

    `codes` is uint8, shape [rows, blocks, BLOCK * bits / 8]: two 4-bit codes to a byte, the first
    in the low half. `scales` is float32, shape [rows, blocks]. A weight is
    `(code - 2 ** (bits - 1)) * scale`.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]


def quantise_rows(weights: NDArray[np.float32], bits: int) -> QuantisedRows:
    """Quantise `weights`, float32 of shape [rows, columns], to `bits` 4 or 8.

    Each block of 32 gets the scale that minimises its squared error, each weight counted by its
    own square, among a few candidates (the search of `make_qx_quants` in llama.cpp's
    ggml-quants.c); with 8 bits the largest weight simply becomes 127. `columns` must be a
    multiple of 32.
    """
    rows, columns = weights.shape
    blocks = weights.reshape(-1, BLOCK)
    codes = np.empty((len(blocks), BLOCK * bits // 8), dtype=np.uint8)
    scales = np.empty(len(blocks), dtype=np.float32)
    step = PIECE_WEIGHTS // BLOCK
    for first in range(0, len(blocks), step):
        # One column per block: sums over a block then run along the vector registers.
        piece = np.ascontiguousarray(blocks[first : first + step].T)
        scale = _scales(piece, bits)
        scales[first : first + step] = scale
        codes[first : first + step] = _pack(_codes(piece, scale, bits), bits).T
    shape = (rows, columns // BLOCK)
    return QuantisedRows(codes.reshape(*shape, -1), scales.reshape(shape))
