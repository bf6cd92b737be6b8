"""Import of GGUF files: every tensor exact, every configuration the original's, malice refused."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from converters import import_gguf as module
from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.import_gguf import import_gguf
from edgekit.errors import InputError

from .tiny_gguf import write_gguf

MakeCheckpoint = Callable[..., Path]
TYPES = [
    "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M",
    "TQ1_0", "TQ2_0", "MXFP4",
]  # fmt: skip


class Told:
    """Remembers what a task was told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None, int]] = []

    @contextmanager
    def task(
        self, label: str, total: int | None, unit: str = "bytes"
    ) -> Iterator[Callable[[int], None]]:
        counts: list[int] = []
        yield counts.append
        self.tasks.append((label, total, sum(counts)))


def imported(path: Path, **options: Any) -> Path:
    out = path.parent / "imported"
    out.mkdir()
    import_gguf(path, out, **options)
    return out


def spread(types: list[str]) -> Callable[[str], str]:
    """Return a function that gives one matrix after another one type after another."""
    chosen: dict[str, str] = {}
    turn = cycle(types)
    return lambda name: chosen.setdefault(name, next(turn))


@pytest.mark.parametrize("first", [0, 12])
def test_every_type_is_dequantised_as_ggml_does(
    tiny_checkpoint: Path, tmp_path: Path, first: int
) -> None:
    types = spread(TYPES[first:] + TYPES[:first])
    stored = write_gguf(tiny_checkpoint, tmp_path / "m.gguf", types)
    found = load_file(imported(tmp_path / "m.gguf") / "model.safetensors")
    assert found.keys() == stored.keys()
    for name, values in stored.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_small_slabs_give_the_same_bytes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tiny_checkpoint, tmp_path / "m.gguf", lambda name: "Q8_0")
    whole, sliced = tmp_path / "whole", tmp_path / "sliced"
    whole.mkdir()
    sliced.mkdir()
    import_gguf(tmp_path / "m.gguf", whole)
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 5000)
    import_gguf(tmp_path / "m.gguf", sliced)
    names = sorted(p.name for p in whole.iterdir())
    assert names == sorted(p.name for p in sliced.iterdir())
    assert all((whole / n).read_bytes() == (sliced / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4, "rope_theta": 5e5}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": False}),
    ],
)
def test_an_imported_model_answers_like_the_original(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, architecture: str, overrides: dict[str, Any]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    original = make_checkpoint(architecture, **overrides)
    write_gguf(original, tmp_path / "m.gguf")
    out = imported(tmp_path / "m.gguf")
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        logits = [
            AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
            for folder in (original, out)
        ]
    assert torch.equal(*logits)
    assert describe(Checkpoint.open(out)) == describe(Checkpoint.open(original))


def test_a_sliding_window_makes_it_a_mistral(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    original = make_checkpoint("mistral", sliding_window=128)
    write_gguf(original, tmp_path / "m.gguf", change=lambda w: w.add_sliding_window(128))
    shape = describe(Checkpoint.open(imported(tmp_path / "m.gguf")))
    assert shape == describe(Checkpoint.open(original))
    assert shape.sliding_window == 128


def test_configuration_and_generation(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        writer.add_license("apache-2.0")
        writer.add_name("tiny\nmodel")
        writer.add_eot_token_id(1)

    write_gguf(tiny_checkpoint, tmp_path / "m.gguf", change=change)
    told = Told()
    out = imported(tmp_path / "m.gguf", progress=told)
    config = json.loads((out / "config.json").read_text())
    assert (config["rms_norm_eps"], config["torch_dtype"]) == (1e-6, "float32")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 2, 0)
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 1]
    checkpoint = Checkpoint.open(out)
    assert checkpoint.licence == "apache-2.0"
    weights = checkpoint.parameters * 4
    assert told.tasks == [("importing weights", weights, weights)]


def llama3_factors(settings: dict[str, Any]) -> np.ndarray:
    """Return the rotary factors by transformers' own code."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def frequencies(kind: str, scaling: dict[str, Any] | None) -> Any:
        config = LlamaConfig(
            hidden_size=256, num_attention_heads=4, rope_theta=5e5, rope_scaling=scaling,
            max_position_embeddings=131072,
        )  # fmt: skip
        return ROPE_INIT_FUNCTIONS[kind](config, "cpu")[0]

    default = 5e5 ** -(np.arange(0, 64, 2) / 64)
    factors: np.ndarray = (default / frequencies("llama3", settings).numpy()).astype(np.float32)
    return factors


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, factor: float
) -> None:
    original = make_checkpoint("llama", rope_theta=5e5)
    settings = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    factors = llama3_factors(settings)
    write_gguf(
        original, tmp_path / "m.gguf", change=lambda w: w.add_tensor("rope_freqs.weight", factors)
    )
    config = json.loads((imported(tmp_path / "m.gguf") / "config.json").read_text())
    assert config["rope_scaling"] == settings


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_other_scalings_are_recovered(tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(128)

    write_gguf(tiny_checkpoint, tmp_path / "m.gguf", change=change)
    scaling = describe(Checkpoint.open(imported(tmp_path / "m.gguf"))).rope_scaling
    assert scaling is not None
    assert (scaling.kind, scaling.factor) == (kind, 4.0)
    assert scaling.original_context_length == (128 if kind == "yarn" else 512)


def other_architecture(writer: Any) -> None:
    writer.add_string("general.basename", "x")
    writer.kv_data[0]["general.architecture"].value = "mamba"


def overwrite(key: str, value: Any) -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        writer.kv_data[0][key] = replace(writer.kv_data[0][key], value=value)

    return change


def an_endless_scale(writer: Any) -> None:
    writer.tensors[0]["blk.1.ffn_up.weight"].tensor.view(np.float16)[0, 0] = np.inf


def integers_for_weights(writer: Any) -> None:
    writer.add_tensor("blk.1.ffn_up.weight", np.ones((512, 256), np.int32))


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"change": other_architecture}, "architecture 'mamba'"),
    "a part of a split model": (
        {"change": lambda w: w.add_uint16("split.count", 3)},
        "one of 3 parts",
    ),
    "another tokenizer": (
        {"change": overwrite("tokenizer.ggml.model", "llama")},
        "the kind 'llama'",
    ),
    "an unknown pre-tokenizer": ({"pre": "viking"}, "the pre-tokenizer 'viking'"),
    "no pre-tokenizer": ({"pre": "default"}, "the pre-tokenizer 'default'"),
    "a missing tensor": (
        {"leave_out": ["blk.1.ffn_up.weight"]},
        "the tensor blk.1.ffn_up.weight is missing",
    ),
    "no embedding": ({"leave_out": ["token_embd.weight"]}, "no matrix token_embd.weight"),
    "a foreign tensor": (
        {"change": lambda w: w.add_tensor("blk.0.ffn_gate_exps.weight", np.ones(8, np.float32))},
        "blk.0.ffn_gate_exps.weight is not part of the model",
    ),
    "another shape": (
        {"change": overwrite("llama.feed_forward_length", 480)},
        "has shape [256, 512], its metadata says [256, 480]",
    ),
    "widths per layer": (
        {
            "change": lambda w: (
                w.kv_data[0].pop("llama.feed_forward_length"),
                w.add_feed_forward_length([512, 512]),
            )
        },
        "llama.feed_forward_length should be int",
    ),
    "too many layers": (
        {"change": overwrite("llama.block_count", 3)},
        "the tensor blk.2.attn_norm.weight is missing",
    ),
    "too few layers": (
        {"change": overwrite("llama.block_count", 1)},
        "blk.1.attn_k.weight is not part",
    ),
    "no heads": (
        {"change": overwrite("llama.attention.head_count", 0)},
        "attention.head_count is 0",
    ),
    "half a rotation": (
        {"change": overwrite("llama.rope.dimension_count", 32)},
        "rope.dimension_count is 32",
    ),
    "an unknown scaling": (
        {"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)},
        "rotary scaling 'longrope'",
    ),
    "a foreign scaling key": (
        {"change": lambda w: w.add_rope_scaling_yarn_beta_fast(16.0)},
        "yarn_beta_fast has no counterpart",
    ),
    "strange rotary factors": (
        {"change": lambda w: w.add_tensor("rope_freqs.weight", np.full(32, 7.0, np.float32))},
        "not those of Llama 3.1's rule",
    ),
    "a type that nothing reads": (
        {"leave_out": ["blk.1.ffn_up.weight"], "change": integers_for_weights},
        "type I32, which cannot be dequantised",
    ),
    "an infinite scale": (
        {"type_of": lambda name: "Q8_0", "change": an_endless_scale},
        "blk.1.ffn_up.weight holds values that are not finite",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    options, part = HOSTILE[name]
    write_gguf(tiny_checkpoint, tmp_path / "m.gguf", **options)
    with pytest.raises(InputError) as caught:
        imported(tmp_path / "m.gguf")
    assert part in caught.value.message


def test_refuses_a_file_that_shrinks_meanwhile(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(tiny_checkpoint, path)
    header = module.read_header(path)
    monkeypatch.setattr(module, "read_header", lambda _: header)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="ends inside tensor"):
        imported(path)


def test_flipped_bits_are_refused_or_harmless(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(tiny_checkpoint, path, lambda name: "Q4_1")
    data, header_bytes = path.read_bytes(), module.read_header(path).data_offset
    random_source, refused = random.Random(3), 0
    for turn in range(60):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[random_source.randrange(header_bytes)] ^= 1 << random_source.randrange(8)
        path.write_bytes(damaged)
        out = tmp_path / str(turn)
        out.mkdir()
        try:
            import_gguf(path, out)
        except InputError:
            refused += 1
    assert refused > 20
