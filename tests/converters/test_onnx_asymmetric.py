"""4 bits with a zero point for each block: the search, the operators' own reading, whole models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.export_onnx import DATA_FILE, ENTRY
from converters.onnx_quantize import (
    dequantise_rows,
    pack_pairs,
    quantise_rows,
    quantise_rows_asymmetric,
    unpack_pairs,
)
from converters.onnx_verify import OnnxMismatchError, verify_onnx
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from runtimes.onnx_engine import OnnxEngine

Floats = NDArray[np.float32]
SCHEME = "int4_asymmetric"
BLOCK = 32


def restored(weights: Floats, importance: Floats | None = None) -> Floats:
    codes, scales, zero_points = quantise_rows_asymmetric(weights, importance)
    return dequantise_rows(codes, scales, 4, zero_points)


def least_errors(blocks: Floats, counts: Floats) -> NDArray[np.float64]:
    """Return the least weighted squared error of each block over all zero points and scales."""
    widths = blocks.max(1).clip(0) - blocks.min(1).clip(None, 0)
    best = np.full(len(blocks), np.inf)
    for zero in range(16):
        for steps in np.arange(9, 21, 0.1):
            scales = (widths / steps)[:, None]
            centred = np.clip(np.rint(blocks / scales), -zero, 15 - zero)
            fitted = (counts * blocks * centred).sum(1) / (counts * centred**2).sum(1).clip(1e-9)
            error = blocks - centred * fitted[:, None]
            best = np.minimum(best, (counts * error**2).sum(1))
    return best


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("weighed", [False, True])
def test_the_search_comes_close_to_trying_everything(weighed: bool, shift: float) -> None:
    random = np.random.default_rng(4)
    weights = (random.laplace(size=(400, BLOCK)) + shift).astype(np.float32)
    importance = (random.chisquare(1, BLOCK) + 0.05).astype(np.float32) if weighed else None
    counts = np.ones(BLOCK, np.float32) if importance is None else importance
    best = least_errors(weights, counts).sum()
    symmetric = dequantise_rows(*quantise_rows(weights, 4, importance), 4)
    found, other = (
        float((counts * (w - weights) ** 2).sum())
        for w in (restored(weights, importance), symmetric)
    )
    assert found < best * (1.09 if weighed else 1.02)  # lengthening costs about one in a hundred
    assert found < 0.85 * other


def test_blocks_that_the_grid_holds_come_back() -> None:
    """Every zero point, positive and negative blocks, against the formula spelt out."""
    codes = np.random.default_rng(1).permuted(np.arange(32) % 16 * np.ones((16, 1)), axis=1)
    weights = ((codes - np.arange(16)[:, None]) * 0.25).astype(np.float32)
    np.testing.assert_allclose(restored(weights), weights, rtol=2**-9)


def test_zero_tiny_and_one_sided_blocks_stay_what_they_are() -> None:
    weights = np.zeros((4, 64), dtype=np.float32)
    weights[1] = 1e-30
    weights[2], weights[3] = 0.5, -0.5
    found = restored(weights)
    assert not found[:2].any()
    np.testing.assert_allclose(found[2:], weights[2:], rtol=2**-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_shows_in_the_scale(bad: float) -> None:
    weights = np.ones((2, 64), dtype=np.float32)
    weights[1, 40] = bad
    with np.errstate(all="ignore"):
        _, scales, _ = quantise_rows_asymmetric(weights)
    assert np.isfinite(scales).tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_pairs_come_back_and_an_odd_one_has_a_byte(count: int) -> None:
    nibbles = np.random.default_rng(count).integers(0, 16, (5, count)).astype(np.uint8)
    packed = pack_pairs(nibbles)
    assert packed.shape == (5, (count + 1) // 2)
    np.testing.assert_array_equal(unpack_pairs(packed)[:, :count], nibbles)


def run(operator: str, inputs: dict[str, NDArray[Any]], **attributes: int) -> Floats:
    """Return what ONNX Runtime's operator makes of `inputs`, the first of which is its weights."""
    import onnxruntime

    order = list(inputs)
    if operator == "MatMulNBits":
        order[0], order[1] = order[1], order[0]
    node = helper.make_node(
        operator, order, ["out"], domain="com.microsoft", bits=4, block_size=BLOCK, **attributes
    )
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in inputs.items() if n != "in"]
    kind = helper.np_dtype_to_tensor_dtype(inputs["in"].dtype)
    places = [
        helper.make_tensor_value_info("in", kind, inputs["in"].shape),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph([node], "one", places[:1], places[1:], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: Floats = session.run(None, {"in": inputs["in"]})[0]
    return found


@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
def test_the_operators_read_the_zero_points_as_we_pack_them(blocks: int) -> None:
    random = np.random.default_rng(blocks)
    rows, columns = 7, blocks * BLOCK
    weights = (random.laplace(size=(rows, columns)) + 0.7).astype(np.float32)
    codes, scales, zero_points = quantise_rows_asymmetric(weights)
    assert zero_points.shape == (rows, (blocks + 1) // 2)
    assert len(np.unique(unpack_pairs(zero_points)[:, :blocks])) > 1
    expected = dequantise_rows(codes, scales, 4, zero_points)
    wide = scales.astype(np.float32)
    gathered = run(
        "GatherBlockQuantized",
        {"codes": codes.reshape(rows, -1), "in": np.arange(rows), "s": wide, "z": zero_points},
        gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    np.testing.assert_array_equal(gathered, expected)
    values = random.normal(size=(5, columns)).astype(np.float32)
    for level, error in ((0, 1e-5), (4, 0.01)):  # 4: the activations are rounded to int8
        product = run(
            "MatMulNBits", {"codes": codes, "in": values, "s": wide, "z": zero_points},
            K=columns, N=rows, accuracy_level=level,
        )  # fmt: skip
        wanted = values @ expected.T
        assert np.abs(product - wanted).max() < error * np.abs(wanted).max()


MODELS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("llama", {}, {}),
    ("llama", {}, {"*": SCHEME}),  # the shared table too, which is looked up and multiplied with
    ("qwen2", {"tie_word_embeddings": False}, {"*embed_tokens*": SCHEME, "lm_head*": SCHEME}),
    ("llama", {"hidden_size": 96, "intermediate_size": 224, "num_attention_heads": 2,
               "num_key_value_heads": 1, "head_dim": 64, "attention_bias": True}, {"*": SCHEME}),
]  # fmt: skip


def with_plain_arithmetic(artifact: Artifact) -> Artifact:
    """Let the model multiply in float32: what is left of the error is not the kernels'."""
    model = onnx.load(artifact.entry, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    artifact.entry.write_bytes(model.SerializeToString())
    return artifact


def read_back(artifact: Artifact, checkpoint: Path) -> dict[str, Floats]:
    """Return every matrix of the checkpoint's from the initialisers, by the operators' formula."""
    stored = {t.name: t for t in onnx.load(artifact.entry).graph.initializer}
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in stored.items()}
    shape = describe(Checkpoint.open(checkpoint))
    found: dict[str, Floats] = {}
    for name in {n.rsplit(".", 1)[0] for n in arrays if n.endswith(".scales")}:
        codes = arrays.get(f"{name}.codes", arrays.get(f"{name}.rows"))
        assert codes is not None
        rows = codes.reshape(len(codes), -1)
        scales = arrays[f"{name}.scales"].astype(np.float32).repeat(BLOCK, axis=1)
        if f"{name}.zero_points" in arrays:
            rows, zeros = (
                np.stack([packed & 15, packed >> 4], -1).reshape(len(codes), -1)
                for packed in (rows, arrays[f"{name}.zero_points"])
            )
            zero = zeros.astype(np.float32).repeat(BLOCK, axis=1)[:, : scales.shape[1]]
        else:
            zero = np.full_like(scales, 128)  # the table, in 8 bits
        found[name] = (rows - zero) * scales
    for name in [n for n in found if "qkv_proj" in n or "gate_up_proj" in n]:
        prefix = name.rsplit(".", 2)[0]
        sizes = (shape.query_size, shape.key_value_size, shape.key_value_size)
        parts = ("q_proj", "k_proj", "v_proj")
        if "gate_up" in name:
            sizes, parts = (shape.intermediate, shape.intermediate, 0), ("gate_proj", "up_proj", "")
        matrix, first = found.pop(name), 0
        for part, size in zip(parts, sizes, strict=True):
            if size:
                found[f"{prefix}.{part}.weight"] = matrix[first : first + size]
            first += size
    return found


@pytest.mark.parametrize(("architecture", "overrides", "per_tensor"), MODELS)
def test_the_engine_computes_with_these_weights(
    architecture: str,
    overrides: dict[str, Any],
    per_tensor: dict[str, str],
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Against transformers, whose weights are what the file says."""
    import torch
    import transformers

    folder = make_checkpoint(architecture, **overrides)
    checkpoint = Checkpoint.open(folder)
    recipe = Recipe("x", "onnx", SCHEME, "", per_tensor)
    artifact = convert(checkpoint, recipe, tmp_path / "a", progress=NoProgress())
    planned = plan(checkpoint, recipe)
    sizes = [(tmp_path / "a" / name).stat().st_size for name in (ENTRY, DATA_FILE)]
    assert sum(sizes) == planned.file_bytes
    assert artifact.manifest.scheme == SCHEME
    assert {t.type for t in planned.tensors if "proj.weight" in t.source} == {SCHEME}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = read_back(artifact, folder)
    assert len(weights) >= 15
    with torch.no_grad():
        for name, matrix in weights.items():
            model.get_parameter(name).copy_(torch.from_numpy(matrix.copy()))
        ids = [int(n) for n in np.random.default_rng(0).integers(3, 300, 60)]
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    engine = OnnxEngine(with_plain_arithmetic(artifact), context_length=100, threads=1)
    found = np.empty_like(wanted)
    engine.score(ids, found)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_bits_are_four_and_five_eighths_for_even_rows(tiny_checkpoint: Path) -> None:
    planned = plan(Checkpoint.open(tiny_checkpoint), Recipe.of("onnx", SCHEME))
    tensor = next(t for t in planned.tensors if t.source.endswith("0.mlp.down_proj.weight"))
    assert tensor.bytes == np.prod(tensor.shape) * 4.625 / 8


@pytest.mark.parametrize(
    "fault", ["an operator without its zero points", "those of another layer", "another shape"]
)
def test_lost_and_foreign_zero_points_are_named(
    fault: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    recipe = Recipe.of("onnx", SCHEME)
    artifact = convert(checkpoint, recipe, tmp_path / "a", progress=NoProgress())
    shape = describe(checkpoint)
    verify_onnx(artifact.entry, checkpoint, shape, recipe)
    model = onnx.load(artifact.entry, load_external_data=False)
    names = [f"model.layers.{n}.mlp.down_proj.weight.zero_points" for n in (0, 1)]
    node = next(n for n in model.graph.node if names[0] in n.input)
    stored = next(t for t in model.graph.initializer if t.name == names[0])
    match fault:
        case "an operator without its zero points":
            node.input[3] = ""
        case "those of another layer":
            node.input[3] = names[1]
        case "another shape":
            stored.dims[:] = [stored.dims[1], stored.dims[0]]
    artifact.entry.write_bytes(model.SerializeToString())
    with pytest.raises((OnnxMismatchError, InputError), match=r"zero.points"):
        verify_onnx(artifact.entry, checkpoint, shape, recipe)
