"""Grids: which values a block of quantised weights can take, and how its bytes hold them.

A weight is `scale * (levels[code] - zero_point) + offset`, with one scale (and offset or zero
point) for each group of columns of a row. `take_apart` and `put_together` go from the packed bytes
of ggml's types to these numbers and back, without loss. Layouts: the block structs of ggml-common.h
in llama.cpp; blocks with zero points are ONNX's, and packed only to be kept: scale, zero point,
codes. It chooses nothing: scales, zero points and codes come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK, SUPER_BLOCK = 32, 256
# The 16 levels of IQ4_NL (kvalues_iq4nl of ggml-common.h), denser near zero.
NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True, slots=True)
class Grid:
    """A type of ggml's or of ONNX's as a grid.

    `levels` ascend; `group` columns share a scale. `has_offset` says whether a group has an offset
    too, `has_zero_point` whether it has a level of its own that means zero. `nested` types store a
    group's scale as a small integer times a float of 256 weights.
    """

    name: str
    levels: tuple[float, ...]
    group: int = BLOCK
    has_offset: bool = False
    nested: bool = False
    has_zero_point: bool = False


def _uniform(first: int, count: int) -> tuple[float, ...]:
    return tuple(float(value) for value in range(first, first + count))


GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        Grid("q4_0", _uniform(-8, 16)),
        Grid("iq4_nl", tuple(map(float, NON_LINEAR))),
        Grid("q4_1", _uniform(0, 16), has_offset=True),
        Grid("q5_0", _uniform(-16, 32)),
        Grid("q5_1", _uniform(0, 32), has_offset=True),
        Grid("q8_0", _uniform(-127, 255)),
        Grid("q4_k", _uniform(0, 16), has_offset=True, nested=True),
        Grid("q5_k", _uniform(0, 32), has_offset=True, nested=True),
        Grid("q6_k", _uniform(-32, 64), group=16, nested=True),
        Grid("int4_asymmetric", _uniform(0, 16), has_zero_point=True),
    )
}


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantised matrix, taken apart.

    `codes`: uint8 [rows, columns], places in the grid's levels. `scales` and `offsets`: float16
    [rows, units], a unit being what one float is stored for (32 or 256 columns). A nested grid has
    small integers besides: `inner_scales` and `inner_offsets`, float32 [rows, groups].
    `zero_points`: uint8 [rows, groups].
    """

    grid: Grid
    codes: Bytes
    scales: NDArray[np.float16]
    offsets: NDArray[np.float16] | None = None
    inner_scales: Floats | None = None
    inner_offsets: Floats | None = None
    zero_points: Bytes | None = None

    def rows(self, first: int, count: int) -> Blocks:
        """Return rows `first` to `first + count`, without copying."""
        part = slice(first, first + count)

        def cut(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[part]

        return Blocks(self.grid, *(cut(getattr(self, f.name)) for f in fields(self)[1:]))

    def steps(self) -> Floats:
        """Return what a level is multiplied by, float32 [rows, groups]."""
        return _spread(self.scales, self.inner_scales, self.codes.shape[1] // self.grid.group)

    def shifts(self) -> Floats | None:
        """Return what is added after that, float32 [rows, groups], or None."""
        if self.offsets is None:
            return None
        return _spread(self.offsets, self.inner_offsets, self.codes.shape[1] // self.grid.group)

    def centred(self) -> Floats:
        """Return the levels of the codes less their zero points, float32 [rows, columns]."""
        levels = np.array(self.grid.levels, dtype=np.float32)[self.codes]
        if self.zero_points is not None:
            levels -= np.repeat(self.zero_points, self.grid.group, axis=1)
        return levels

    def weights(self) -> Floats:
        """Return the weights that an engine computes with, float32 [rows, columns]."""
        grouped = self.centred().reshape(len(self.codes), -1, self.grid.group)
        weights = grouped * self.steps()[..., None]
        shifts = self.shifts()
        if shifts is not None:
            weights += shifts[..., None]
        return weights.reshape(self.codes.shape)


def joined(parts: Sequence[Blocks]) -> Blocks:
    """Return matrices of one grid and width as one, their rows one after another."""

    def join(values: Sequence[Any]) -> Any:
        return None if values[0] is None else np.concatenate(values)

    names = [field.name for field in fields(Blocks)[1:]]
    return Blocks(parts[0].grid, *(join([getattr(part, n) for part in parts]) for n in names))


def _spread(outer: NDArray[np.float16], inner: Floats | None, groups: int) -> Floats:
    """Return one value for each group from one for each unit, times the group's small integer."""
    values = np.repeat(outer.astype(np.float32), groups // outer.shape[1], axis=1)
    return values if inner is None else values * inner


def take_apart(type_name: str, packed: Bytes, columns: int) -> Blocks:
    """Return the numbers in `packed`, uint8 [rows, bytes of a row], rows of `columns` weights.

    Raises KeyError for a type that is no grid.
    """
    grid = GRIDS[type_name]
    rows = len(packed)
    unit = SUPER_BLOCK if grid.nested else BLOCK
    blocks = packed.reshape(rows, columns // unit, -1)
    if type_name == "q6_k":
        return _take_q6_k(grid, blocks)
    if grid.has_zero_point:
        return _take_asymmetric(grid, blocks)
    scales, offsets, blocks = _take_floats(blocks, grid.has_offset)
    if not grid.nested:
        return Blocks(grid, _take_codes(grid, blocks).reshape(rows, columns), scales, offsets)
    inner_scales, inner_offsets = _take_six_bits(blocks[..., :12])
    codes = _take_nested_codes(grid, blocks[..., 12:]).reshape(rows, columns)
    inner_offsets *= -1  # the format subtracts
    return Blocks(
        grid,
        codes,
        scales,
        offsets,
        inner_scales.reshape(rows, -1),
        inner_offsets.reshape(rows, -1),
    )


def put_together(blocks: Blocks) -> Bytes:
    """Return the packed bytes of `blocks`, uint8 [rows, bytes of a row]."""
    grid, rows = blocks.grid, len(blocks.codes)
    unit = SUPER_BLOCK if grid.nested else BLOCK
    codes = blocks.codes.reshape(rows, -1, unit)
    floats = [_as_bytes(blocks.scales)]
    if blocks.offsets is not None:
        floats.append(_as_bytes(blocks.offsets))
    if grid.name == "q6_k":
        assert blocks.inner_scales is not None  # noqa: S101 - a nested grid has them
        inner = blocks.inner_scales.astype(np.int8).view(np.uint8).reshape(rows, -1, 16)
        parts = [*_put_q6_k(codes), inner, *floats]
    elif grid.nested:
        assert blocks.inner_scales is not None  # noqa: S101
        assert blocks.inner_offsets is not None  # noqa: S101
        inner = _put_six_bits(
            blocks.inner_scales.reshape(rows, -1, 8), -blocks.inner_offsets.reshape(rows, -1, 8)
        )
        parts = [*floats, inner, *_put_nested_codes(grid, codes)]
    else:
        if blocks.zero_points is not None:
            floats.append(blocks.zero_points[..., None])
        parts = [*floats, *_put_codes(grid, codes)]
    return np.concatenate(parts, axis=-1).reshape(rows, -1)


def _take_floats(
    blocks: Bytes, has_offset: bool
) -> tuple[NDArray[np.float16], NDArray[np.float16] | None, Bytes]:
    """Return the one or two float16 that a block begins with, and the rest of it."""
    count = 2 if has_offset else 1
    floats = np.ascontiguousarray(blocks[..., : 2 * count]).view(np.float16)
    offsets = np.ascontiguousarray(floats[..., 1]) if has_offset else None
    return np.ascontiguousarray(floats[..., 0]), offsets, blocks[..., 2 * count :]


def _take_asymmetric(grid: Grid, blocks: Bytes) -> Blocks:
    scales, _, rest = _take_floats(blocks, has_offset=False)
    codes = _take_codes(grid, rest[..., 1:]).reshape(len(blocks), -1)
    return Blocks(grid, codes, scales, zero_points=np.ascontiguousarray(rest[..., 0]))


def _as_bytes(values: NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(values, dtype=np.float16)[..., None].view(np.uint8)


def _take_codes(grid: Grid, blocks: Bytes) -> Bytes:
    """Return the codes of blocks of 32: nibbles, with a fifth bit apart where there is one."""
    if grid.name == "q8_0":
        return (np.ascontiguousarray(blocks).view(np.int8).astype(np.int16) + 127).astype(np.uint8)
    nibbles = blocks[..., -16:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
    if len(grid.levels) == 32:
        bits = np.unpackbits(np.ascontiguousarray(blocks[..., :4]), axis=-1, bitorder="little")
        codes |= bits << 4
    return codes


def _put_codes(grid: Grid, codes: Bytes) -> list[Bytes]:
    if grid.name == "q8_0":
        return [(codes.astype(np.int16) - 127).astype(np.int8).view(np.uint8)]
    low = codes & 15
    nibbles = (low[..., :16] | low[..., 16:] << 4).astype(np.uint8)
    if len(grid.levels) == 32:
        return [np.packbits(codes >> 4, axis=-1, bitorder="little"), nibbles]
    return [nibbles]


def _take_six_bits(packed: Bytes) -> tuple[Floats, Floats]:
    """Return eight scales and eight offsets of six bits from twelve bytes (get_scale_min_k4)."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=-1)
    offsets = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=-1)
    return scales.astype(np.float32), offsets.astype(np.float32)


def _put_six_bits(scales: Floats, offsets: Floats) -> Bytes:
    scale, offset = scales.astype(np.uint8), offsets.astype(np.uint8)
    first = scale[..., :4] | scale[..., 4:] >> 4 << 6
    second = offset[..., :4] | offset[..., 4:] >> 4 << 6
    third = scale[..., 4:] & 15 | offset[..., 4:] << 4
    return np.concatenate([first, second, third], axis=-1)


def _take_nested_codes(grid: Grid, blocks: Bytes) -> Bytes:
    """Return 256 codes: two groups of 32 share the nibbles of 32 bytes."""
    nibbles = blocks[..., -128:].reshape(*blocks.shape[:-1], 4, 32)
    codes = np.stack([nibbles & 15, nibbles >> 4], axis=-2).reshape(*blocks.shape[:-1], 8, 32)
    if len(grid.levels) == 32:
        group = np.arange(8, dtype=np.uint8)[:, None]
        codes |= (blocks[..., None, :32] >> group & 1) << 4
    return codes.reshape(*blocks.shape[:-1], SUPER_BLOCK)


def _put_nested_codes(grid: Grid, codes: Bytes) -> list[Bytes]:
    groups = codes.reshape(*codes.shape[:-1], 8, 32)
    low = groups & 15
    nibbles = (low[..., 0::2, :] | low[..., 1::2, :] << 4).astype(np.uint8)
    nibbles = nibbles.reshape(*codes.shape[:-1], 128)
    if len(grid.levels) == 32:
        group = np.arange(8, dtype=np.uint8)[:, None]
        high = np.bitwise_or.reduce((groups >> 4) << group, axis=-2).astype(np.uint8)
        return [high, nibbles]
    return [nibbles]


def _take_q6_k(grid: Grid, blocks: Bytes) -> Blocks:
    """Take Q6_K apart: 128 nibble pairs, 64 bytes of upper bits, 16 scales, one float."""
    rows = len(blocks)
    low = blocks[..., :128].reshape(rows, -1, 2, 2, 32)  # halves of 128, then of 64 bytes
    high = blocks[..., 128:192].reshape(rows, -1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=-2)
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes = (nibbles | (high >> shift & 3) << 4).reshape(rows, -1)
    inner = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    scales = np.ascontiguousarray(blocks[..., 208:]).view(np.float16)[..., 0]
    return Blocks(grid, codes, np.ascontiguousarray(scales), None, inner.reshape(rows, -1))


def _put_q6_k(codes: Bytes) -> tuple[Bytes, Bytes]:
    quarters = codes.reshape(*codes.shape[:-1], 2, 4, 32)
    low = quarters & 15
    nibbles = (low[..., :2, :] | low[..., 2:, :] << 4).astype(np.uint8)
    nibbles = nibbles.reshape(*codes.shape[:-1], 128)
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce((quarters >> 4) << shift, axis=-2).astype(np.uint8)
    return nibbles, high.reshape(*codes.shape[:-1], 64)
