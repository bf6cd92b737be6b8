"""Grids against gguf-py, an independent reader of the same types."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from converters import ggml
from converters.rounding.grids import GRIDS, Blocks, joined, put_together, take_apart

ROWS, COLUMNS = 12, 512
GGML_GRIDS = [name for name, grid in GRIDS.items() if not grid.has_zero_point]


def packed(name: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.05
    weights[0] = 0  # a block of zeros has a scale of 0
    return ggml.load().quantise(weights, name, np.ones(COLUMNS, np.float32))


@pytest.mark.parametrize("name", GGML_GRIDS)
def test_the_weights_are_those_that_gguf_py_reads(name: str) -> None:
    data = packed(name)
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType[name.upper()])
    blocks = take_apart(name, data, COLUMNS)
    np.testing.assert_array_equal(blocks.weights(), expected)
    assert blocks.codes.max() < len(blocks.grid.levels)


@pytest.mark.parametrize("name", GGML_GRIDS)
def test_what_is_taken_apart_goes_together_again(name: str) -> None:
    data = packed(name)
    np.testing.assert_array_equal(put_together(take_apart(name, data, COLUMNS)), data)


@pytest.mark.parametrize("name", GGML_GRIDS)
def test_every_code_survives(name: str) -> None:
    blocks = take_apart(name, packed(name), COLUMNS)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, len(blocks.grid.levels), (ROWS, COLUMNS)).astype(np.uint8)
    changed = replace(blocks, codes=codes)
    data = put_together(changed)
    again = gguf.dequantize(data, gguf.GGMLQuantizationType[name.upper()])
    np.testing.assert_array_equal(again, changed.weights())
    np.testing.assert_array_equal(take_apart(name, data, COLUMNS).codes, codes)


def asymmetric(columns: int) -> Blocks:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 16, (ROWS, columns)).astype(np.uint8)
    scales = rng.standard_normal((ROWS, columns // 32)).astype(np.float16)
    zero_points = rng.integers(0, 16, scales.shape).astype(np.uint8)
    return Blocks(GRIDS["int4_asymmetric"], codes, scales, zero_points=zero_points)


@pytest.mark.parametrize("columns", [32, 96, 128])
def test_zero_points_say_which_code_is_zero(columns: int) -> None:
    blocks = asymmetric(columns)
    weights, again = blocks.weights(), take_apart("int4_asymmetric", put_together(blocks), columns)
    assert blocks.zero_points is not None
    for row, column in ((0, 0), (3, 31), (ROWS - 1, columns - 1)):
        code, zero = blocks.codes[row, column], blocks.zero_points[row, column // 32]
        scale = float(blocks.scales[row, column // 32])
        assert weights[row, column] == np.float32((int(code) - int(zero)) * scale)
    np.testing.assert_array_equal(again.weights(), weights)
    np.testing.assert_array_equal(again.zero_points, blocks.zero_points)
    both = joined([blocks.rows(0, 5), blocks.rows(5, ROWS - 5)])
    np.testing.assert_array_equal(both.weights(), weights)
