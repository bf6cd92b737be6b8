"""Configurations become shapes; what the engines cannot compute is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters.architectures import FAMILIES, ModelShape, Role, describe
from converters.checkpoint import Checkpoint
from edgekit.errors import InputError

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def described(source: Path, folder: Path, **changes: Any) -> ModelShape:
    """Return the shape of a copy of `source` with keys of config.json changed."""
    shutil.copytree(source, folder / "copy")
    path = folder / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return describe(Checkpoint.open(folder / "copy"))


@pytest.mark.parametrize("family", FAMILIES.values())
def test_a_shape_names_exactly_the_tensors_of_the_checkpoint(
    family: str, make_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(family))
    shape = describe(checkpoint)
    assert {spec.name: spec.shape for spec in shape.tensors()} == {
        info.name: info.shape for info in checkpoint.tensors.values()
    }
    assert shape.family == family
    assert shape.parameters == checkpoint.parameters


def test_families_differ_in_what_they_are_known_for(make_checkpoint: Callable[..., Path]) -> None:
    shapes = {f: describe(Checkpoint.open(make_checkpoint(f))) for f in FAMILIES.values()}
    assert [f for f, shape in shapes.items() if shape.qkv_bias] == ["qwen2"]
    assert [f for f, shape in shapes.items() if shape.qk_norm] == ["qwen3"]


def test_numbers_come_from_the_configuration(tiny_checkpoint: Path) -> None:
    shape = describe(Checkpoint.open(tiny_checkpoint))
    assert (shape.layers, shape.hidden, shape.intermediate) == (2, 256, 512)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (4, 2, 64)
    assert (shape.query_size, shape.key_value_size) == (256, 128)
    assert (shape.context_length, shape.rope_theta, shape.tied_embeddings) == (512, 10000.0, True)


def test_a_sliding_window_ends_the_usable_context(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    shape = described(make_checkpoint("mistral"), tmp_path, sliding_window=128)
    assert (shape.sliding_window, shape.context_length, shape.usable_context) == (128, 512, 128)


def test_rope_scaling_is_read_under_its_old_and_its_new_key(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    old = described(tiny_checkpoint, tmp_path / "old", rope_scaling=LLAMA3)
    new = described(
        tiny_checkpoint,
        tmp_path / "new",
        rope_theta=None,
        rope_parameters=LLAMA3 | {"rope_theta": 10000.0},
    )
    assert old == new
    assert old.rope_scaling is not None
    assert (old.rope_scaling.kind, old.rope_scaling.factor) == ("llama3", 8.0)


def test_a_typed_name_of_a_tensor_is_its_role_and_layer(tiny_checkpoint: Path) -> None:
    specs = describe(Checkpoint.open(tiny_checkpoint)).tensors()
    down = [spec for spec in specs if spec.role is Role.DOWN]
    assert [spec.name for spec in down] == [
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLn"]}, "'LlamaForCausalLn' is not supported"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "256"}, "hidden_size is '256', not a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 10**9}, "says 1000000000 layers"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\..* is missing"),
        ({"num_hidden_layers": 1}, r"tensor model\.layers\.1\..* is not part of"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"head_dim": 63}, "rotary embeddings need an even number"),
        ({"vocab_size": 541}, r"has shape \[542, 256\], the configuration says \[541, 256\]"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, not a number above 0"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, not true or false"),
        ({"attention_bias": True}, "q_proj.bias is missing"),
        ({"partial_rotary_factor": 0.5}, "partial rotation is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 9.0}}, "not below high_freq_factor"),
        ({"rope_scaling": []}, "not an object"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    changes: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        described(tiny_checkpoint, tmp_path, **changes)


def test_an_unknown_architecture_gets_the_nearest_name(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        described(tiny_checkpoint, tmp_path, architectures=["Qwen3MoeForCausalLM"])
    assert "did you mean Qwen3ForCausalLM?" in caught.value.hint


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_windows_per_layer_are_refused(
    family: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="use_sliding_window"):
        described(make_checkpoint(family), tmp_path, use_sliding_window=True)
