"""Checkpoint -> ONNX: sizes, bits, substitutions, what a wrong file is called, and GenAI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from converters.architectures import ModelShape, describe
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.export_onnx import DATA_FILE, ENTRY, export_onnx, plan_onnx
from converters.onnx_quantize import BLOCK, dequantise_rows, quantise_rows
from converters.onnx_rotary import inverse_frequencies
from converters.onnx_verify import OnnxMismatchError, verify_onnx
from converters.plan import Plan
from converters.recipe import Recipe
from edgekit.errors import InputError
from edgekit.progress import NoProgress

INT4 = Recipe.of("onnx", "int4")


def export(path: Path, recipe: Recipe, folder: Path) -> tuple[ModelShape, Plan]:
    checkpoint = Checkpoint.open(path)
    shape = describe(checkpoint)
    folder.mkdir(exist_ok=True)
    export_onnx(checkpoint, shape, recipe, None, None, folder, NoProgress())
    return shape, plan_onnx(checkpoint, shape, recipe)


def nodes(folder: Path, operator: str) -> list[dict[str, Any]]:
    model = onnx.load(folder / ENTRY, load_external_data=False)
    return [
        {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for node in model.graph.node
        if node.op_type == operator
    ]


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_rows_come_back_within_one_step(bits: Any) -> None:
    weights = np.random.default_rng(3).normal(size=(50, 96)).astype(np.float32)
    codes, scales = quantise_rows(weights, bits)
    error = np.abs(dequantise_rows(codes, scales, bits) - weights)
    steps = np.abs(scales.astype(np.float32)).repeat(BLOCK, axis=1)
    # half a step, the rounding of the scale to float16, and with 4 bits a clipped largest weight
    assert (error <= steps * (1.4 if bits == 4 else 0.55)).all()
    assert np.sqrt(np.mean(error**2)) < {4: 0.09, 8: 0.006}[bits]


def test_codes_and_scales_are_those_that_the_operator_defines() -> None:
    """Against a loop written from MatMulNBits' documentation, on weights that 4 bits hold."""
    grid = np.arange(-8, 8, dtype=np.float32).repeat(2) * 0.25
    codes, scales = quantise_rows(np.stack([grid, grid]), 4)
    assert codes.shape == (2, 1, 16)
    found = []
    for byte in codes[0, 0].tolist():
        found += [((byte & 15) - 8) * float(scales[0, 0]), ((byte >> 4) - 8) * float(scales[0, 0])]
    np.testing.assert_allclose(found, grid, rtol=2**-10)


def test_search_is_better_than_the_plain_largest_weight() -> None:
    weights = np.random.default_rng(5).normal(size=(200, 256)).astype(np.float32)
    codes, scales = quantise_rows(weights, 4)
    error = np.square(dequantise_rows(codes, scales, 4) - weights).sum()
    blocks = weights.reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    plain = np.clip(np.rint(blocks / (largest / -8)), -8, 7) * (largest / -8)
    assert error < 0.95 * np.square(plain - blocks).sum()


def test_important_columns_get_the_smaller_error() -> None:
    random = np.random.default_rng(6)
    weights = random.normal(size=(200, 64)).astype(np.float32)
    importance = np.where(np.arange(64) % 4 == 0, 100, 0.01).astype(np.float32)
    weighted, plain = (
        np.square(dequantise_rows(*quantise_rows(weights, 4, given), 4) - weights)[:, ::4].mean()
        for given in (importance, None)
    )
    assert weighted < 0.8 * plain


def test_blocks_of_zeros_and_of_tiny_weights_stay_finite() -> None:
    weights = np.zeros((2, 64), dtype=np.float32)
    weights[1] = 1e-30
    for bits in (4, 8):
        codes, scales = quantise_rows(weights, bits)  # type: ignore[arg-type]
        assert np.abs(dequantise_rows(codes, scales, bits)).max() == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ],
)  # fmt: skip
def test_rotary_frequencies_are_those_of_transformers(
    make_checkpoint: Callable[..., Path], scaling: dict[str, Any] | None
) -> None:
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    path = make_checkpoint("llama", rope_scaling=scaling)
    config = transformers.AutoConfig.from_pretrained(path)
    shape = describe(Checkpoint.open(path))
    wanted = LlamaRotaryEmbedding(config).inv_freq.numpy()
    np.testing.assert_allclose(inverse_frequencies(shape), wanted, rtol=2e-6)
    if shape.rope_scaling is not None:
        _, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, None)  # type: ignore[index]
        assert shape.rope_scaling.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize("scheme", ["f32", "f16", "int8", "int4", "int4_asymmetric"])
def test_files_have_exactly_the_planned_size(
    tiny_checkpoint: Path, tmp_path: Path, scheme: str
) -> None:
    shape, plan = export(tiny_checkpoint, Recipe.of("onnx", scheme), tmp_path)
    written = (tmp_path / ENTRY).stat().st_size + (tmp_path / DATA_FILE).stat().st_size
    assert written == plan.file_bytes
    assert plan.weights == shape.parameters
    assert not plan.substitutions
    sources = {tensor.source for tensor in plan.tensors} - {""}
    assert sources == set(Checkpoint.open(tiny_checkpoint).tensors)


def test_int4_body_has_4_bits_and_the_shared_table_8(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shape, plan = export(tiny_checkpoint, INT4, tmp_path)
    products = nodes(tmp_path, "MatMulNBits")
    assert len(products) == 4 * shape.layers + 1
    assert [p["bits"] for p in products] == [4] * 4 * shape.layers + [8]
    assert [n["bits"] for n in nodes(tmp_path, "GatherBlockQuantized")] == [8]
    table = shape.vocabulary_size * shape.hidden
    embedding = sum(t.bytes for t in plan.tensors if t.source == "model.embed_tokens.weight")
    assert embedding == table + table // BLOCK * 2  # stored once


def test_a_pattern_of_the_recipe_decides_a_type(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Mixed types in one stack, and an output of its own for tied embeddings."""
    kinds = {"*.0.self_attn.v_proj.weight": "int8", "*.down_proj.*": "f32", "lm_head.*": "int4"}
    shape, plan = export(tiny_checkpoint, Recipe("mixed", "onnx", "int4", "", kinds), tmp_path)
    found = {
        tensor.source: tensor.type for tensor in plan.tensors if tensor.name != "lm_head.weight"
    }
    assert found["model.layers.0.self_attn.v_proj.weight"] == "int8"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "int4"
    assert found["model.layers.1.mlp.down_proj.weight"] == "f32"
    assert found["model.embed_tokens.weight"] == "int8"
    assert [t.type for t in plan.tensors if t.name == "lm_head.weight"] == ["int4"]
    assert len(nodes(tmp_path, "FusedMatMul")) == shape.layers


def test_a_pattern_that_matches_nothing_is_refused(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    recipe = Recipe("typo", "onnx", "int4", "", {"*.down_prj.weight": "int8"})
    with pytest.raises(InputError, match=r"down_prj.*matches no matrix"):
        plan_onnx(checkpoint, describe(checkpoint), recipe)


def test_rows_that_are_not_whole_blocks_are_substituted_and_said(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint("llama", intermediate_size=200)
    _, plan = export(path, INT4, tmp_path)
    assert {s.tensor for s in plan.substitutions} == {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)
    }
    assert {(s.asked, s.used) for s in plan.substitutions} == {("int4", "f32")}
    assert "200" in plan.substitutions[0].why


def test_heads_that_the_engine_cannot_compute_are_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The engine would load such a file, and fail at the first token."""
    checkpoint = Checkpoint.open(make_checkpoint("llama", head_dim=24))
    with pytest.raises(InputError, match="heads of 24 values") as caught:
        convert(checkpoint, Recipe.of("onnx", "int8"), tmp_path / "out", progress=NoProgress())
    assert "GGUF" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_numbers_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    for scheme in ("int4", "int8", "f16", "f32"):
        with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight"):
            export(broken, Recipe.of("onnx", scheme), tmp_path / scheme)


def test_the_same_checkpoint_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(tiny_checkpoint, INT4, tmp_path / name)
    for file in (ENTRY, DATA_FILE, "genai_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


class TestVerify:
    """A finished file with one thing wrong, as a bug of ours or of a library would leave it."""

    @pytest.fixture
    def finished(self, tiny_checkpoint: Path, tmp_path: Path) -> Path:
        export(tiny_checkpoint, INT4, tmp_path)
        return tmp_path

    def refuses(self, folder: Path, path: Path, message: str) -> None:
        checkpoint = Checkpoint.open(path)
        with pytest.raises((OnnxMismatchError, InputError), match=message):
            verify_onnx(folder / ENTRY, checkpoint, describe(checkpoint), INT4)

    def change(self, folder: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
        model = onnx.load(folder / ENTRY, load_external_data=False)
        edit(model)
        (folder / ENTRY).write_bytes(model.SerializeToString())

    def test_other_bits(self, finished: Path, tiny_checkpoint: Path) -> None:
        def edit(model: onnx.ModelProto) -> None:
            node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
            next(a for a in node.attribute if a.name == "bits").i = 8

        self.change(finished, edit)
        self.refuses(finished, tiny_checkpoint, "with 4 bits in blocks of 32")

    def test_two_matrices_swapped(self, finished: Path, tiny_checkpoint: Path) -> None:
        def edit(model: onnx.ModelProto) -> None:
            stored = {t.name: t for t in model.graph.initializer}
            first = stored["model.layers.0.self_attn.o_proj.weight.codes"].external_data
            second = stored["model.layers.1.self_attn.o_proj.weight.codes"].external_data
            first[1].value, second[1].value = second[1].value, first[1].value

        self.change(finished, edit)
        self.refuses(finished, tiny_checkpoint, "o_proj.weight differs")

    def test_a_matrix_left_unused(self, finished: Path, tiny_checkpoint: Path) -> None:
        def edit(model: onnx.ModelProto) -> None:
            products = (n for n in model.graph.node if n.op_type == "MatMulNBits")
            node = next(n for n in products if "down_proj" in n.name)
            model.graph.node.remove(node)

        self.change(finished, edit)
        self.refuses(finished, tiny_checkpoint, "no operator uses it")

    def test_data_cut_short(self, finished: Path, tiny_checkpoint: Path) -> None:
        data = finished / DATA_FILE
        with data.open("r+b") as stream:
            stream.truncate(data.stat().st_size - 1000)
        self.refuses(finished, tiny_checkpoint, "ends at byte")

    def test_data_overwritten_with_zeros(self, finished: Path, tiny_checkpoint: Path) -> None:
        data = finished / DATA_FILE
        data.write_bytes(bytes(data.stat().st_size))
        self.refuses(finished, tiny_checkpoint, "differs from")


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_genai_loads_the_folder_and_gives_the_same_greedy_tokens(
    make_checkpoint: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    """Against transformers' own generation from the same checkpoint."""
    genai = pytest.importorskip("onnxruntime_genai")
    import torch
    import transformers

    path = make_checkpoint(architecture)
    export(path, Recipe.of("onnx", "f32"), tmp_path)
    prompt = [int(n) for n in np.random.default_rng(2).integers(3, 300, 20)]
    model = genai.Model(str(tmp_path))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=40, min_length=40, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    reference = transformers.AutoModelForCausalLM.from_pretrained(path)
    wanted = reference.generate(
        torch.tensor([prompt]), max_length=40, min_length=40, do_sample=False
    )
    assert list(generator.get_sequence(0)) == wanted[0].tolist()


def test_genai_configuration_stops_where_the_checkpoint_does(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export(tiny_checkpoint, Recipe("short", "onnx", "int8", context_length=100), tmp_path)
    model = json.loads((tmp_path / "genai_config.json").read_text())["model"]
    assert model["eos_token_id"] == [2]
    assert model["context_length"] == 100
    graph = onnx.load(tmp_path / ENTRY, load_external_data=False).graph
    cosines = next(t for t in graph.initializer if t.name == "rotary.cosines")
    assert list(cosines.dims) == [100, 32]
