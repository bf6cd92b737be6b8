"""Error-compensated rounding: the layer's real error falls, on every grid, and is what we say."""

from __future__ import annotations

from itertools import pairwise

import gguf
import numpy as np
import pytest
import torch

from converters import ggml
from converters.rounding.compensate import Rounding, damped
from converters.rounding.grids import GRIDS, Blocks, put_together, take_apart

ROWS, COLUMNS, POSITIONS = 24, 512, 2048


def layer() -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights, and inputs whose channels are correlated as a model's are."""
    torch.manual_seed(3)
    mixed = torch.randn(POSITIONS, 96) @ torch.randn(96, COLUMNS)
    inputs = mixed + torch.randn(POSITIONS, COLUMNS) * torch.rand(COLUMNS) * 3
    return torch.randn(ROWS, COLUMNS) * 0.05, inputs


def started(name: str, weights: torch.Tensor, inputs: torch.Tensor) -> Blocks:
    importance = inputs.square().mean(0).numpy()
    return take_apart(name, ggml.load().quantise(weights.numpy(), name, importance), COLUMNS)


def moments_of(inputs: torch.Tensor) -> torch.Tensor:
    return damped(inputs.T @ inputs / len(inputs))


def output_error(weights: torch.Tensor, blocks: Blocks, inputs: torch.Tensor) -> float:
    """Return the mean squared error of the outputs, from the bytes that an engine reads."""
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


@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q4_1", "q6_k"])
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


def test_the_error_is_that_of_the_outputs() -> None:
    weights, inputs = layer()
    start = started("iq4_nl", weights, inputs)
    work = Rounding(weights, start, inputs.T @ inputs / len(inputs))
    expected = output_error(weights, start, inputs) * ROWS  # a sum over the rows
    assert work.error() == pytest.approx(expected, rel=1e-3)


def test_a_block_of_zeros_stays_finite() -> None:
    weights, inputs = layer()
    weights[2] = 0
    inputs[:, 64:96] = 0  # channels that the text never used
    work = Rounding(weights, started("q4_0", weights, inputs), moments_of(inputs))
    work.compensate()
    work.sweep()
    assert np.isfinite(work.weights()).all()
    assert not work.weights()[2].any()
