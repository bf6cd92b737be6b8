"""Likeness agrees with numbers worked out by hand, and rounding is told from damage."""

from __future__ import annotations

import numpy as np
import pytest

from converters.onnx_quantize import dequantise_rows, quantise_rows
from edgekit.workflows.certify.stored import StoredTensor
from edgekit.workflows.certify.weights import _gains_wrong, _matrix_wrong, likeness

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@pytest.fixture
def weights() -> Floats:
    return np.random.default_rng(1).normal(0, 0.05, (96, 256)).astype(np.float32)


def test_the_figures_are_those_of_numpy(weights: Floats) -> None:
    other = (weights + np.random.default_rng(2).normal(0, 0.02, weights.shape)).astype(np.float32)
    found = likeness(weights, other)
    error = np.linalg.norm(other - weights) / np.linalg.norm(weights)
    assert found.relative_error == pytest.approx(error, rel=1e-6)
    expected = np.corrcoef(weights.ravel(), other.ravel())[0, 1]
    assert found.correlation == pytest.approx(expected, rel=1e-6)


def test_the_spread_of_gains_is_that_of_the_blocks(weights: Floats) -> None:
    gains = np.random.default_rng(3).uniform(0.8, 1.2, (96, 8, 1)).astype(np.float32)
    found = likeness(weights, (weights.reshape(96, 8, 32) * gains).reshape(96, 256))
    energy = (weights.reshape(96, 8, 32).astype(float) ** 2).sum(2, keepdims=True)
    mean = (energy * gains).sum() / energy.sum()
    expected = np.sqrt((energy * (gains - mean) ** 2).sum() / energy.sum())
    assert found.gain_spread == pytest.approx(expected, rel=1e-4)


def wrong(original: Floats, stored: Floats, bits: int = 4) -> str:
    tensor = StoredTensor(stored, f"int{bits}", bits)
    return _matrix_wrong(tensor, likeness(original, stored))


def test_rounding_and_tuning_are_allowed(weights: Floats) -> None:
    codes, scales = quantise_rows(weights, 4)
    assert wrong(weights, dequantise_rows(codes, scales, 4)) == ""
    rng = np.random.default_rng(4)
    tuned = (scales * rng.normal(1.0, 0.04, scales.shape)).astype(np.float16)
    assert wrong(weights, dequantise_rows(codes, tuned, 4)) == ""
    steps = rng.choice([-1, 0, 1], size=(96, 256), p=[0.1, 0.8, 0.1])
    plain = dequantise_rows(codes, scales, 4)
    moved = plain + (steps * np.abs(scales.astype(np.float32)).repeat(32, axis=1))
    assert wrong(weights, moved.astype(np.float32)) == ""


def test_damage_is_not(weights: Floats) -> None:
    codes, scales = quantise_rows(weights, 4)
    plain = dequantise_rows(codes, scales, 4)
    assert "not the checkpoint's" in wrong(weights, np.roll(plain, 1, axis=0))
    assert "not the checkpoint's" in wrong(weights, plain[:, ::-1].copy())
    lengths = np.random.default_rng(5).uniform(0.7, 1.3, (96, 8)).repeat(32, axis=1)
    assert "scales" in wrong(weights, (plain * lengths).astype(np.float32))
    plain[4, 4] = np.nan
    assert "not a number" in wrong(weights, plain)


def test_gains_may_be_tuned_but_not_lost() -> None:
    rng = np.random.default_rng(6)
    gains = rng.uniform(0.5, 2.0, 256).astype(np.float32)

    def judged(stored: Floats) -> str:
        return _gains_wrong(gains, stored, likeness(gains, stored))

    assert judged(gains) == ""
    assert judged((gains * rng.normal(1, 0.06, 256)).astype(np.float32)) == ""
    assert "lost" in judged(np.full_like(gains, gains.mean()))
    assert "another norm" in judged(
        rng.permutation(gains) * np.float32(0.9)
    ) or "too much" in judged(rng.permutation(gains))
    flat = np.ones(256, np.float32)
    assert _gains_wrong(flat, flat, likeness(flat, flat)) == ""
