"""The rotary table of a model: cosine and sine of every position and frequency.

Done in float32, like transformers, so that angles at far positions round the same way.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, RopeScaling

Array = NDArray[np.float32]


def rotary_table(shape: ModelShape, positions: int) -> tuple[Array, Array]:
    """Return cosines and sines, each float32 [positions, head_dim / 2] (Su et al. 2021, RoFormer).

    Scaled as `shape.rope_scaling` says; see RopeScaling and `modeling_rope_utils.py` in
    transformers.
    """
    frequencies = inverse_frequencies(shape)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    scaling = shape.rope_scaling
    factor = np.float32(scaling.attention_factor if scaling else 1.0)
    return np.cos(angles) * factor, np.sin(angles) * factor


def inverse_frequencies(shape: ModelShape) -> Array:
    """Return the angle per position of each pair of elements: float32 [head_dim / 2]."""
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
    plain = (1.0 / np.float32(shape.rope_theta) ** exponents).astype(np.float32)
    scaling = shape.rope_scaling
    if scaling is None:
        return plain
    slow = plain / np.float32(scaling.factor)
    match scaling.kind:
        case "linear":
            return slow
        case "llama3":
            share = _llama3_share(plain, scaling)
        case "yarn":
            share = _yarn_share(shape, scaling)
    return (share * plain + (1 - share) * slow).astype(np.float32)


def _llama3_share(plain: Array, scaling: RopeScaling) -> Array:
    """Return how much of each frequency stays unscaled, by its turns in the original context."""
    turns = scaling.original_context_length * plain / np.float32(2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    share: Array = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return share


def _yarn_share(shape: ModelShape, scaling: RopeScaling) -> Array:
    """Return how much of each frequency stays unscaled: a ramp between two dimensions."""

    def dimension(turns: float) -> float:
        wavelength = scaling.original_context_length / (turns * 2 * math.pi)
        return shape.head_dim * math.log(wavelength) / (2 * math.log(shape.rope_theta))

    first = max(math.floor(dimension(scaling.beta_fast)), 0)
    last = min(math.ceil(dimension(scaling.beta_slow)), shape.head_dim - 1)
    steps = np.arange(shape.head_dim // 2, dtype=np.float32)
    ramp = (steps - first) / max(last - first, 0.001)
    share: Array = (1 - np.clip(ramp, 0, 1)).astype(np.float32)
    return share
