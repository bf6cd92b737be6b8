"""Grids against gguf-py, an independent reader of the same types."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from converters import ggml
from converters.rounding.grids import GRIDS, put_together, take_apart

ROWS, COLUMNS = 12, 512


def packed(name: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.05
    weights[0] = 0  # a block of zeros has a scale of 0
    return ggml.load().quantise(weights, name, np.ones(COLUMNS, np.float32))


@pytest.mark.parametrize("name", GRIDS)
def test_the_weights_are_those_that_gguf_py_reads(name: str) -> None:
    data = packed(name)
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType[name.upper()])
    blocks = take_apart(name, data, COLUMNS)
    np.testing.assert_array_equal(blocks.weights(), expected)
    assert blocks.codes.max() < len(blocks.grid.levels)


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_taken_apart_goes_together_again(name: str) -> None:
    data = packed(name)
    np.testing.assert_array_equal(put_together(take_apart(name, data, COLUMNS)), data)


@pytest.mark.parametrize("name", GRIDS)
def test_every_code_survives(name: str) -> None:
    blocks = take_apart(name, packed(name), COLUMNS)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, len(blocks.grid.levels), (ROWS, COLUMNS)).astype(np.uint8)
    changed = replace(blocks, codes=codes)
    data = put_together(changed)
    again = gguf.dequantize(data, gguf.GGMLQuantizationType[name.upper()])
    np.testing.assert_array_equal(again, changed.weights())
    np.testing.assert_array_equal(take_apart(name, data, COLUMNS).codes, codes)
