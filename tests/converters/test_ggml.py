"""The binding to libggml: proven against gguf-py, and against llama.cpp's public quantiser."""

from __future__ import annotations

import _ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest

from converters import ggml
from converters.ggml import Ggml, UnusableLibraryError, row_bytes, self_test
from edgekit.errors import InputError

WEIGHTS = np.random.default_rng(3).standard_normal((5, 512), dtype=np.float32)


def test_the_library_passes_its_self_test() -> None:
    assert ggml.load() is ggml.load()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_types_that_gguf_py_can_make_are_the_same_bytes(name: str) -> None:
    expected = gguf.quantize(WEIGHTS, gguf.GGMLQuantizationType[name.upper()])
    made = ggml.load().quantise(WEIGHTS, name)
    assert made.tobytes() == expected.tobytes()
    assert made.shape == (5, row_bytes(name, 512))


def test_rows_are_quantised_one_by_one() -> None:
    whole = ggml.load().quantise(WEIGHTS, "q4_k")
    parts = [ggml.load().quantise(WEIGHTS[row : row + 1], "q4_k") for row in range(5)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_importance_moves_the_error_where_it_does_not_matter() -> None:
    importance = np.ones(512, dtype=np.float32)
    importance[:256:2] = 1000.0
    q4_k = gguf.GGMLQuantizationType.Q4_K
    plain = gguf.dequantize(ggml.load().quantise(WEIGHTS, "q4_k"), q4_k) - WEIGHTS
    weighed = gguf.dequantize(ggml.load().quantise(WEIGHTS, "q4_k", importance), q4_k) - WEIGHTS
    assert np.mean(weighed[:, :256:2] ** 2) < 0.8 * np.mean(plain[:, :256:2] ** 2)


def test_a_row_of_broken_blocks_is_refused_before_ggml_aborts() -> None:
    with pytest.raises(ValueError, match="a row of 96 is not a multiple of 256"):
        ggml.load().quantise(WEIGHTS[:, :96], "q4_k")


def test_a_type_that_needs_importance_is_refused_without_it() -> None:
    with pytest.raises(ValueError, match="without importance"):
        ggml.load().quantise(WEIGHTS, "iq2_xs")


@pytest.mark.parametrize("name", ["f32", "f16", "q8_0", "q4_0", "q4_k", "q6_k", "iq4_nl"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_refused(name: str, value: float) -> None:
    weights = WEIGHTS.copy()
    weights[2, 7] = value
    with pytest.raises(InputError, match="infinite or not a number"):
        ggml.load().quantise(weights, name)


def test_a_weight_beyond_half_precision_is_refused() -> None:
    with pytest.raises(InputError, match="too large for f16"):
        ggml.load().quantise(np.full((1, 32), 70000.0, dtype=np.float32), "f16")


def test_a_library_that_answers_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Ggml(ggml.library_path())
    self_test(library)
    monkeypatch.setitem(ggml.TYPE_IDS, "q4_0", ggml.TYPE_IDS["iq4_nl"])  # same size, other codes
    with pytest.raises(UnusableLibraryError, match="q4_0 has a relative error"):
        self_test(library)


def test_a_library_without_the_functions_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(UnusableLibraryError, match="absent"):
        Ggml(tmp_path / "absent.so")
    with pytest.raises(UnusableLibraryError, match="ggml_quantize_chunk"):
        Ggml(Path(_ctypes.__file__))
