"""Symmetric block quantisation of a weight matrix for MatMulNBits and GatherBlockQuantized.

It knows numbers only: no tensor names, no files, no graphs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[4, 8]
Array = NDArray[np.float32]

BLOCK = 32  # weights that share one scale, along a row
# Weights are worked on in pieces of this many, so that every temporary stays in the cache.
PIECE_WEIGHTS = 1 << 17
# Where a block's largest weight may land on the 4-bit grid, which ends at -8: beyond it, that
# one weight is clipped and all others get finer steps.
FOUR_BIT_ENDS = tuple(np.arange(7.0, 9.01, 0.25, dtype=np.float32))
EIGHT_BIT_END = np.float32(127)
LARGEST_HALF = np.float32(65504)
LENGTHENING = (np.float32(0.95), np.float32(1.05))  # about 1.007 is usual


def quantise_rows(
    weights: Array, bits: Bits, importance: Array | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Quantise `weights`, float32 [rows, columns], in blocks of 32 columns.

    Returns the codes, uint8 [rows, blocks, 4 * bits], two 4-bit codes to a byte with the first
    in the low half, and the scales, float16 [rows, blocks]; a weight is about
    `(code - 2 ** (bits - 1)) * scale`. `importance`, float32 [columns], says how much the
    squared error of each column counts. `columns` must be a multiple of 32.
    """
    rows, columns = weights.shape
    blocks = columns // BLOCK
    codes = np.empty((rows * blocks, BLOCK * bits // 8), dtype=np.uint8)
    scales = np.empty(rows * blocks, dtype=np.float16)
    counts = np.ones(columns, dtype=np.float32) if importance is None else importance
    step = max(1, PIECE_WEIGHTS // columns)
    for first in range(0, rows, step):
        piece = weights[first : first + step]
        part = slice(first * blocks, (first + len(piece)) * blocks)
        # A block becomes a column, so that sums over blocks run along the vector registers.
        values = np.ascontiguousarray(piece.reshape(-1, BLOCK).T)
        column_counts = np.tile(counts.reshape(-1, BLOCK).T, len(piece))
        scales[part] = _scales(values, column_counts, bits)
        codes[part] = _codes(values, scales[part].astype(np.float32), bits).T
    return codes.reshape(rows, blocks, -1), scales.reshape(rows, blocks)


def dequantise_rows(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], bits: Bits
) -> NDArray[np.float32]:
    """Return the weights that the engine computes with: the inverse of `quantise_rows`."""
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], BLOCK)
    centred = codes.astype(np.float32) - np.float32(1 << (bits - 1))
    return (centred * scales.astype(np.float32)[..., None]).reshape(len(codes), -1)


def _scales(values: Array, counts: Array, bits: Bits) -> Array:
    """Return one scale for each column of `values`, float32 [32, blocks]."""
    low, high = values.min(axis=0), values.max(axis=0)
    if bits == 8:
        scale = np.maximum(high, -low) / EIGHT_BIT_END
    else:
        scale = _search(values, counts, np.where(high > -low, high, low))
    clipped: Array = np.clip(scale, -LARGEST_HALF, LARGEST_HALF)
    return clipped


def _search(values: Array, counts: Array, largest: Array) -> Array:
    """Return the candidate scales of least squared error, then lengthened.

    Rounding to the nearest code makes a block's projection on the original a little too short,
    and thirty layers of it add up; the last step makes the projection's length right.
    """
    best_error = np.full(len(largest), np.inf, dtype=np.float32)
    best = np.zeros_like(largest)
    for end in FOUR_BIT_ENDS:
        scale = largest / -end
        error = values - _rounded(values, scale, 4) * scale
        error *= error
        error *= counts
        total = error.sum(axis=0)
        better = total < best_error
        np.copyto(best_error, total, where=better)
        np.copyto(best, scale, where=better)
    weighted = values * counts
    along = (weighted * _rounded(values, best, 4)).sum(axis=0) * best
    ratio = np.divide(
        (weighted * values).sum(axis=0), along, out=np.ones_like(best), where=along != 0
    )
    best *= np.clip(ratio, *LENGTHENING)
    return best


def _rounded(values: Array, scale: Array, bits: Bits) -> Array:
    """Return the signed codes of `values` as floats; a scale of 0 gives codes of 0."""
    half = 1 << (bits - 1)
    codes: Array = values * np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    np.rint(codes, out=codes)
    np.clip(codes, -half, half - 1, out=codes)
    return codes


def _codes(values: Array, scale: Array, bits: Bits) -> NDArray[np.uint8]:
    """Return unsigned codes, uint8 [4 * bits, blocks]."""
    centred = _rounded(values, scale, bits)
    codes: NDArray[np.uint8] = (centred + np.float32(1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        codes[0::2] |= codes[1::2] << 4
        return codes[0::2]
    return codes
