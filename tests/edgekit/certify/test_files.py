"""What is read back from a file is what an independent reading of its bytes gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.onnx_quantize import dequantise_rows, quantise_rows, quantise_rows_asymmetric
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress
from edgekit.workflows.certify.expected import rotary_tables
from edgekit.workflows.certify.gguf_file import put_back
from edgekit.workflows.certify.onnx_file import unpacked
from edgekit.workflows.certify.stored import open_file


def converted(checkpoint: Path, folder: Path, format_name: str, scheme: str) -> Artifact:
    opened = Checkpoint.open(checkpoint)
    return convert(opened, Recipe.of(format_name, scheme), folder / "a", progress=NoProgress())


def test_rows_are_put_back_by_the_rule_of_llama_cpp() -> None:
    """Its converter: w.reshape(heads, 2, d / 2, columns).swapaxes(1, 2)."""
    rows = np.arange(2 * 8 * 3, dtype=np.float32).reshape(16, 3)
    permuted = rows.reshape(2, 2, 4, 3).swapaxes(1, 2).reshape(16, 3)
    np.testing.assert_array_equal(put_back(permuted, 8), rows)
    bias = np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(
        put_back(bias.reshape(2, 2, 4).swapaxes(1, 2).reshape(16), 8), bias
    )


def test_codes_are_unpacked_from_the_lowest_bits_on() -> None:
    packed = np.array([[0x21, 0x43]], np.uint8)
    assert unpacked(packed, 4).tolist() == [[1, 2, 3, 4]]
    assert unpacked(packed, 8).tolist() == [[0x21, 0x43]]
    assert unpacked(np.array([[0b11100100]], np.uint8), 2).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("format_name", ["gguf", "onnx"])
def test_a_file_in_float32_gives_the_checkpoint_back(
    architecture: str, format_name: str, make_checkpoint: Any, tmp_path: Path
) -> None:
    folder = make_checkpoint(architecture, tie_word_embeddings=False)
    checkpoint = Checkpoint.open(folder)
    shape = describe(checkpoint)
    file = open_file(converted(folder, tmp_path, format_name, "f32"), shape)
    assert file is not None
    assert file.names(shape) == {spec.name for spec in shape.tensors()}
    assert file.unknown(shape) == []
    for spec in shape.tensors():
        stored = file.tensor(spec)
        assert stored is not None
        np.testing.assert_array_equal(stored.values, checkpoint.read(spec.name), spec.name)


@pytest.mark.parametrize(("scheme", "bits"), [("int8", 8), ("int4", 4), ("int4_asymmetric", 4)])
def test_an_onnx_matrix_is_what_its_quantiser_meant(
    scheme: str, bits: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    shape = describe(checkpoint)
    file = open_file(converted(tiny_checkpoint, tmp_path, "onnx", scheme), shape)
    assert file is not None
    spec = next(s for s in shape.tensors() if s.name == "model.layers.1.mlp.down_proj.weight")
    stored = file.tensor(spec)
    assert stored is not None
    assert (stored.type, stored.bits) == (scheme, bits)
    weights = checkpoint.read(spec.name)
    if scheme == "int4_asymmetric":
        codes, scales, zero_points = quantise_rows_asymmetric(weights)
        expected = dequantise_rows(codes, scales, bits, zero_points)
    else:
        expected = dequantise_rows(*quantise_rows(weights, bits), bits)
    np.testing.assert_allclose(stored.values, expected, atol=1e-6)


def test_the_rotary_table_is_that_of_the_paper(tiny_checkpoint: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_checkpoint)
    positions = np.array([0, 1, 17, 511])
    cosines, sines = rotary_tables(config, positions)
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-4)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-4)
