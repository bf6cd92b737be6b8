"""Error-compensated rounding: the layer's real error falls, on every grid, and is what we say."""

from __future__ import annotations

from itertools import pairwise

import gguf
import numpy as np
import pytest
import torch

from converters import ggml
from converters.onnx_quantize import dequantise_rows
from converters.rounding import onnx_blocks
from converters.rounding.compensate import Rounding, damped
from converters.rounding.grids import GRIDS, Blocks, put_together, take_apart

ROWS, COLUMNS, POSITIONS = 24, 512, 2048
ASYMMETRIC = "int4_asymmetric"


def layer() -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights, and inputs whose channels are correlated as a model's are."""
    torch.manual_seed(3)
    mixed = torch.randn(POSITIONS, 96) @ torch.randn(96, COLUMNS)
    inputs = mixed + torch.randn(POSITIONS, COLUMNS) * torch.rand(COLUMNS) * 3
    return torch.randn(ROWS, COLUMNS) * 0.05, inputs


def started(name: str, weights: torch.Tensor, inputs: torch.Tensor) -> Blocks:
    importance = inputs.square().mean(0).numpy()
    if name == ASYMMETRIC:
        return onnx_blocks.start_blocks(weights.numpy(), name, importance)
    return take_apart(name, ggml.load().quantise(weights.numpy(), name, importance), COLUMNS)


def moments_of(inputs: torch.Tensor) -> torch.Tensor:
    return damped(inputs.T @ inputs / len(inputs))


def output_error(weights: torch.Tensor, blocks: Blocks, inputs: torch.Tensor) -> float:
    """Return the mean squared error of the outputs, from the bytes that an engine reads."""
    if blocks.grid.name == ASYMMETRIC:
        codes, scales, zero_points = onnx_blocks.stored(blocks, 0, ROWS)
        read = torch.from_numpy(dequantise_rows(codes, scales, 4, zero_points))
    else:
        kind = gguf.GGMLQuantizationType[blocks.grid.name.upper()]
        read = torch.from_numpy(gguf.dequantize(put_together(blocks), kind))
    return float((inputs @ (weights - read).T).square().mean())


@pytest.mark.parametrize("name", GRIDS)
def test_the_outputs_come_closer(name: str) -> None:
    weights, inputs = layer()
    start = started(name, weights, inputs)
    plain = output_error(weights, start, inputs)
    work = Rounding(weights, start, moments_of(inputs))
    work.compensate()
    once = output_error(weights, work.blocks(), inputs)
    work.sweep()
    work.sweep()
    swept = output_error(weights, work.blocks(), inputs)
    assert once < 0.8 * plain
    assert swept < once
    np.testing.assert_allclose(work.weights(), work.blocks().weights(), atol=1e-6)


@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q4_1", "q6_k", ASYMMETRIC])
def test_no_sweep_makes_the_error_larger(name: str) -> None:
    weights, inputs = layer()
    work = Rounding(weights, started(name, weights, inputs), moments_of(inputs))
    errors = [work.error()]
    for _ in range(5):
        work.sweep()
        errors.append(work.error())
    slack = 1e-4 * abs(errors[0])  # scales are rounded to float16
    assert all(after <= before + slack for before, after in pairwise(errors))
    assert errors[-1] < errors[0]


def test_zero_points_stay_and_the_scales_are_those_of_least_error() -> None:
    """With one block a row the best scale is a formula: that of a line through zero."""
    weights, inputs = (values[..., :32] for values in layer())
    start = started(ASYMMETRIC, weights, inputs)
    work = Rounding(weights, start, inputs.T @ inputs / len(inputs))
    work.sweep()
    found = work.blocks()
    np.testing.assert_array_equal(found.zero_points, start.zero_points)
    wanted, basis = inputs @ weights.T, inputs @ torch.from_numpy(found.centred()).T
    best = (wanted * basis).sum(0) / basis.square().sum(0)
    np.testing.assert_allclose(found.scales[:, 0], best, rtol=2**-10)


def test_the_error_is_that_of_the_outputs() -> None:
    weights, inputs = layer()
    start = started("iq4_nl", weights, inputs)
    work = Rounding(weights, start, inputs.T @ inputs / len(inputs))
    expected = output_error(weights, start, inputs) * ROWS  # a sum over the rows
    assert work.error() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["q4_0", ASYMMETRIC])
def test_a_block_of_zeros_stays_finite(name: str) -> None:
    weights, inputs = layer()
    weights[2] = 0
    inputs[:, 64:96] = 0  # channels that the text never used
    work = Rounding(weights, started(name, weights, inputs), moments_of(inputs))
    work.compensate()
    work.sweep()
    assert np.isfinite(work.weights()).all()
    assert not work.weights()[2].any()
