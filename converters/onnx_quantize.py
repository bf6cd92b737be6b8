"""Block quantisation of a weight matrix for MatMulNBits and GatherBlockQuantized.

Symmetric with 4 or 8 bits, whose code for zero is the grid's middle, or asymmetric with 4 bits,
where each block says which code stands for zero. It knows numbers only: no tensor names, no
files, no graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
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
# How many steps a block's range may be wide on the asymmetric grid, which has 15: what is beyond
# them is clipped at both ends alike.
RANGE_STEPS = tuple(np.linspace(13, 17, 7, dtype=np.float32))
LAST_CODE = np.float32(15)


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
    for part, values, counts in _pieces(weights, importance):
        scales[part] = _scales(values, counts, bits)
        codes[part] = _codes(values, scales[part].astype(np.float32), bits).T
    return codes.reshape(rows, blocks, -1), scales.reshape(rows, blocks)


def quantise_rows_asymmetric(
    weights: Array, importance: Array | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
    """Quantise `weights` as `quantise_rows` does with 4 bits, with a zero point for each block.

    Returns codes and scales as there, and the zero points, packed as `pack_pairs` does: uint8
    [rows, ceil(blocks / 2)]; a weight is about `(code - zero_point) * scale`.
    """
    rows, columns = weights.shape
    blocks = columns // BLOCK
    codes = np.empty((rows * blocks, BLOCK // 2), dtype=np.uint8)
    scales = np.empty(rows * blocks, dtype=np.float16)
    zeros = np.empty(rows * blocks, dtype=np.uint8)
    for part, values, counts in _pieces(weights, importance):
        scale, zero = _search_asymmetric(values, counts)
        scales[part], zeros[part] = np.minimum(scale, LARGEST_HALF), zero
        centred = _rounded_about(values, scales[part].astype(np.float32), zero)
        codes[part] = pack_pairs((centred + zero).astype(np.uint8).T)
    shape = (rows, blocks)
    return codes.reshape(*shape, -1), scales.reshape(shape), pack_pairs(zeros.reshape(shape))


def dequantise_rows(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16],
    bits: Bits,
    zero_points: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Return the weights that the engine computes with: the inverse of both ways to quantise."""
    if bits == 4:
        codes = unpack_pairs(codes)
    zero: Array | np.float32 = np.float32(1 << (bits - 1))
    if zero_points is not None:
        zero = unpack_pairs(zero_points)[:, : scales.shape[1], None].astype(np.float32)
    centred = codes.astype(np.float32) - zero
    return (centred * scales.astype(np.float32)[..., None]).reshape(len(codes), -1)


def pack_pairs(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return numbers below 16, two to a byte along the last axis, the first in the low half.

    An odd one out has a byte to itself, as the operators have it at the end of each row.
    """
    if nibbles.shape[-1] % 2:
        nibbles = np.concatenate([nibbles, np.zeros_like(nibbles[..., :1])], axis=-1)
    return nibbles[..., 0::2] | nibbles[..., 1::2] << np.uint8(4)


def unpack_pairs(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what `pack_pairs` packed, with the last byte's upper half even where it is unused."""
    pairs = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)


def _pieces(weights: Array, importance: Array | None) -> Iterator[tuple[slice, Array, Array]]:
    """Yield the blocks of some rows: their places, values and importance, float32 [32, blocks]."""
    rows, columns = weights.shape
    blocks = columns // BLOCK
    counts = np.ones(columns, dtype=np.float32) if importance is None else importance
    step = max(1, PIECE_WEIGHTS // columns)
    for first in range(0, rows, step):
        piece = weights[first : first + step]
        part = slice(first * blocks, (first + len(piece)) * blocks)
        # A block becomes a column, so that sums over blocks run along the vector registers.
        values = np.ascontiguousarray(piece.reshape(-1, BLOCK).T)
        yield part, values, np.tile(counts.reshape(-1, BLOCK).T, len(piece))


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
    return _lengthened(values, values * counts, _rounded(values, best, 4), best)


def _lengthened(values: Array, weighted: Array, centred: Array, scale: Array) -> Array:
    """Return the scales with which codes less their zero, `centred`, are as long as `values`."""
    along = (weighted * centred).sum(axis=0) * scale
    ratio = np.divide(
        (weighted * values).sum(axis=0), along, out=np.ones_like(scale), where=along != 0
    )
    longer: Array = scale * np.clip(ratio, *LENGTHENING)
    return longer


def _search_asymmetric(values: Array, counts: Array) -> tuple[Array, Array]:
    """Return the scale and the zero point of least squared error for each block, both float32.

    Candidates stretch the block's range over the grid, a little more or less; each gets the scale
    that suits the codes it leads to. Then the zero points beside the best one are tried, and the
    scale is lengthened as in `_search`.
    """
    low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
    best = _Best(values, counts)
    for steps in RANGE_STEPS:
        scale = (high - low) / steps
        zero = np.rint(-low * _inverse(scale) - (steps - LAST_CODE) / 2)
        best.improve(scale, np.clip(zero, 0, LAST_CODE, out=zero))
    for beside in (best.zero - 1, best.zero + 1):
        best.improve(best.scale.copy(), np.clip(beside, 0, LAST_CODE))
    centred = _rounded_about(values, best.scale, best.zero)
    return _lengthened(values, best.weighted, centred, best.scale), best.zero


class _Best:
    """The best scale and zero point so far for each column of `values`, float32 [32, blocks].

    `counts` says what the squared error of each counts; `weighted` holds the values times that.
    """

    def __init__(self, values: Array, counts: Array) -> None:
        self._values, self._counts = values, counts
        self.weighted = values * counts
        blocks = values.shape[1]
        self.scale, self.zero = np.zeros((2, blocks), dtype=np.float32)
        self._gain = np.full(blocks, -np.inf, dtype=np.float32)

    def improve(self, scale: Array, zero: Array) -> None:
        """Take the codes that `scale` and `zero` lead to where they leave the smaller error.

        With a scale s, codes q less their zero take s (2 vq - s qq) off the squared error of the
        values v, every product weighted; vq / qq takes most.
        """
        centred = _rounded_about(self._values, scale, zero)
        along = np.einsum("wb,wb->b", self.weighted, centred)
        length = np.einsum("wb,wb,wb->b", self._counts, centred, centred)
        fitted = along * _inverse(length)
        # Not far from the candidate, so that a weight that counts little stays near its code too.
        fitted = np.clip(fitted, scale * LENGTHENING[0], scale * LENGTHENING[1])
        gain = fitted * (2 * along - fitted * length)
        better = gain > self._gain
        np.copyto(self._gain, gain, where=better)
        np.copyto(self.scale, fitted, where=better)
        np.copyto(self.zero, zero, where=better)


def _rounded(values: Array, scale: Array, bits: Bits) -> Array:
    """Return the signed codes of `values` as floats; a scale of 0 gives codes of 0."""
    half = 1 << (bits - 1)
    codes: Array = values * _inverse(scale)
    np.rint(codes, out=codes)
    np.clip(codes, -half, half - 1, out=codes)
    return codes


def _rounded_about(values: Array, scale: Array, zero: Array) -> Array:
    """Return the 4-bit codes of `values` less `zero`, as floats; a scale of 0 gives 0."""
    codes: Array = values * _inverse(scale)
    np.rint(codes, out=codes)
    np.maximum(codes, -zero, out=codes)  # twice as fast as np.clip with a limit for each column
    np.minimum(codes, LAST_CODE - zero, out=codes)
    return codes


def _inverse(values: Array) -> Array:
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)


def _codes(values: Array, scale: Array, bits: Bits) -> NDArray[np.uint8]:
    """Return unsigned codes, uint8 [4 * bits, blocks]."""
    centred = _rounded(values, scale, bits)
    codes: NDArray[np.uint8] = (centred + np.float32(1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        codes[0::2] |= codes[1::2] << 4
        return codes[0::2]
    return codes
