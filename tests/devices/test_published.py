"""The table of published speeds: its bytes are the converters', its errors are as claimed."""

from __future__ import annotations

import tomllib
from math import prod
from pathlib import Path

import pytest

from converters.architectures import ModelShape
from converters.gguf_plan import plan_tensors
from converters.recipe import Recipe
from devices.profile import names
from devices.published import TABLE, accuracy, compare
from edgekit.errors import InputError


def shape(family: str, numbers: tuple[int, ...], tied: bool) -> ModelShape:
    layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary = numbers
    return ModelShape(
        family=family,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary_size=vocabulary,
        context_length=4096,
        rms_norm_epsilon=1e-5,
        rope_theta=1e4,
        rope_scaling=None,
        sliding_window=None,
        tied_embeddings=tied,
        qkv_bias=family == "qwen2",
        attention_output_bias=False,
        feed_forward_bias=False,
        qk_norm=False,
    )


# layers, width, inner width, heads, key-value heads, head size, vocabulary: from each config.json
SHAPES = {
    "llama-3.2-3b": shape("llama", (28, 3072, 8192, 24, 8, 128, 128256), True),
    "llama-3.1-8b": shape("llama", (32, 4096, 14336, 32, 8, 128, 128256), False),
    "llama-2-13b": shape("llama", (40, 5120, 13824, 40, 40, 128, 32000), False),
    "tinyllama-1.1b": shape("llama", (22, 2048, 5632, 32, 4, 64, 32000), False),
    "smollm2-1.7b": shape("llama", (24, 2048, 8192, 32, 32, 64, 49152), True),
    "qwen2.5-1.5b": shape("qwen2", (28, 1536, 8960, 12, 2, 128, 151936), True),
    "deepseek-r1-1.5b": shape("qwen2", (28, 1536, 8960, 12, 2, 128, 151936), False),
    "qwen2.5-3b": shape("qwen2", (36, 2048, 11008, 16, 2, 128, 151936), True),
    "deepseek-r1-14b": shape("qwen2", (48, 5120, 13824, 40, 8, 128, 152064), False),
}
MODELS = tomllib.loads(TABLE.read_text())["models"]


@pytest.mark.parametrize("key", [key for key in MODELS if MODELS[key]["name"] in SHAPES])
def test_bytes_are_those_that_the_converter_plans(key: str) -> None:
    written = MODELS[key]
    known = SHAPES[written["name"]]
    tensors, _ = plan_tensors(known, Recipe.of("gguf", written["scheme"]))
    assert written["weight_bytes"] == sum(tensor.bytes for tensor in tensors)
    blocks = [t for t in tensors if t.name.startswith("blk.") and len(t.shape) > 1]
    for kind, size in written["block_bytes"].items():
        assert size == sum(t.bytes for t in blocks if t.type == kind)
        assert written["block_weights"][kind] == sum(
            prod(t.shape) for t in blocks if t.type == kind
        )
    assert written["parameters"] == known.parameters
    assert written["kv_bytes_per_token"] == 4 * known.layers * known.key_value_size


def test_published_file_sizes_agree() -> None:
    """Sizes that others print: wget in ai-benchmarks issue 53, llama-bench in issue 54."""
    assert MODELS["llama-3_2-3b-q4_k_m"]["weight_bytes"] == pytest.approx(2_019_377_696, rel=0.005)
    tensors, _ = plan_tensors(SHAPES["tinyllama-1.1b"], Recipe.of("gguf", "q4_k_m"))
    assert sum(tensor.bytes for tensor in tensors) == pytest.approx(636.18 * 2**20, rel=0.001)


def test_the_median_error_is_under_a_fifth() -> None:
    decode = next(item for item in accuracy(compare()) if item.figure == "decode")
    assert decode.rows >= 30
    assert decode.unfitted_rows >= 20
    assert decode.median_error < 0.2
    assert decode.median_error_unfitted < 0.2


def test_every_row_is_there_with_its_source() -> None:
    rows = tomllib.loads(TABLE.read_text())["rows"]
    figures = sum(("decode_tokens_per_s" in row) + ("prefill_tokens_per_s" in row) for row in rows)
    comparisons = compare()
    assert len(comparisons) == figures
    assert all(len(row.source) > 10 for row in comparisons)
    assert {row.device for row in comparisons} <= set(names())


def test_a_row_without_a_source_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "published.toml"
    text = TABLE.read_text()
    first = text.index("source", text.index("[[rows]]"))
    table.write_text(text[:first] + 'source = ""\n' + text[text.index("\n", first) + 1 :])
    with pytest.raises(InputError, match="has no source"):
        compare(table)


def test_a_row_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "published.toml"
    table.write_text(TABLE.read_text().replace('model = "gemma-4-e2b-q4_0"', 'model = "gemma"'))
    with pytest.raises(InputError, match="names the model 'gemma'"):
        compare(table)
