"""Our rounding to the grids of bitsandbytes, against bitsandbytes itself: the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.torch_quantize import int8_rows, nf4_blocks
from edgekit.bitsandbytes_layout import NF4_LEVELS, nf4_state

SHAPES = [(64, 96), (48, 40), (7, 13), (300, 576)]


def weights(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return weights like a trained matrix's, with a few large ones and a row of zeros."""
    found = np.random.default_rng(5).standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    found[::5, ::7] *= 20
    found[3] = 0
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    import bitsandbytes
    import torch

    # bitsandbytes rounds to half precision first; values that are so already tell the rest
    values = weights(shape).astype(np.float16).astype(np.float32)
    codes, scales = int8_rows(values)
    wanted, wanted_scales, _ = bitsandbytes.functional.int8_vectorwise_quant(
        torch.from_numpy(values).half()
    )
    np.testing.assert_array_equal(scales, wanted_scales.numpy())
    rows = scales > 0  # theirs divides by zero
    np.testing.assert_array_equal(codes[rows], wanted.numpy()[rows])
    assert not codes[~rows].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    import bitsandbytes
    import torch

    values = weights(shape)
    packed, scales = nf4_blocks(values)
    wanted, state = bitsandbytes.functional.quantize_4bit(
        torch.from_numpy(values), blocksize=64, quant_type="nf4", compress_statistics=False
    )
    np.testing.assert_array_equal(packed, wanted.numpy().ravel())
    np.testing.assert_allclose(scales, state.absmax.numpy(), atol=1e-37, rtol=0)
    np.testing.assert_array_equal(np.array(NF4_LEVELS, np.float32), state.code.numpy())
    stored = state.as_dict(packed=True)["quant_state.bitsandbytes__nf4"]
    assert bytes(stored.numpy()) == nf4_state(*shape, "float32")


def test_no_weight_is_further_away_than_half_a_step() -> None:
    values = weights((300, 576))
    codes, scales = int8_rows(values)
    error = np.abs(codes * (scales / 127)[:, None] - values)
    assert (error <= scales[:, None] / 254 * 1.001).all()
    packed, absmax = nf4_blocks(values)
    levels = np.array(NF4_LEVELS, np.float32)
    rounded = levels[np.stack([packed >> 4, packed & 15], axis=1).ravel()].reshape(-1, 64)
    blocks = values.reshape(-1, 64)
    nearest = np.abs(blocks[..., None] - levels * absmax[:, None, None]).min(axis=2)
    np.testing.assert_allclose(np.abs(rounded * absmax[:, None] - blocks), nearest, atol=1e-6)
