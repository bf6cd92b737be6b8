"""The writer: its files are read by safetensors, its roundings are torch's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.safetensors_writer import FloatType, encode, is_exact, write_tensors

SHAPES = {"a": (3, 5), "b": (7,), "empty": (0, 4)}
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def values() -> NDArray[np.float32]:
    """Return ordinary and awkward numbers: ties, subnormals, infinities, too large ones."""
    awkward = [0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875, 3.4e38, 65520.0, 1e-40, 6e-8]
    random = np.random.default_rng(5).standard_normal(22 - len(awkward))
    return np.array([*awkward, *random], dtype=np.float32)


def slabs() -> Iterator[NDArray[np.float32]]:
    """Yield the elements cut where no tensor ends."""
    yield from np.array_split(values(), 4)


@pytest.mark.parametrize("dtype", get_args(FloatType))
def test_safetensors_reads_what_torch_would_have_rounded(dtype: FloatType, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    told: list[int] = []
    write_tensors(tmp_path / "m.safetensors", SHAPES, slabs(), told.append, dtype)
    expected = torch.from_numpy(values()).to(getattr(torch, NAMES[dtype]))
    found = load_file(tmp_path / "m.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == SHAPES
    assert torch.equal(torch.cat([found["a"].flatten(), found["b"]]), expected)
    assert sum(told) == 22 * expected.element_size()


@pytest.mark.parametrize("dtype", get_args(FloatType))
def test_what_is_not_a_number_stays_so(dtype: FloatType) -> None:
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], dtype="<u4")  # a quiet bit may be unset
    data = encode(bits.view("<f4"), dtype)
    back = (data.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else data
    assert np.isnan(back.astype(np.float32)).all()


def test_exactness_is_that_of_a_round_trip() -> None:
    import torch

    for dtype in get_args(FloatType):
        for value in values():
            one = np.array([value])
            back = torch.from_numpy(one).to(getattr(torch, NAMES[dtype])).float().numpy()
            assert is_exact(one, dtype) == np.array_equal(back, one), (dtype, value)


@pytest.mark.parametrize("count", [21, 23])
def test_a_wrong_number_of_elements_is_an_error(count: int, tmp_path: Path) -> None:
    data = [np.zeros(count, dtype=np.float32)]
    with pytest.raises(ValueError, match=f"{count} elements for shapes of 22"):
        write_tensors(tmp_path / "m.safetensors", SHAPES, data, lambda _: None)
