"""The torch format: what transformers loads by itself, as planned, from no other file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.importance import Importance
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.errors import InputError
from edgekit.progress import NoProgress

SCHEMES = ("f32", "bf16", "int8", "nf4")
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
ODD = {"hidden_size": 72, "intermediate_size": 104, "head_dim": 18, "num_hidden_layers": 1}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("llama", {"rope_scaling": LLAMA3}),
    ("llama", ODD),
    ("mistral", {"sliding_window": 9}),
    ("qwen2", {"rope_scaling": YARN}),
    ("qwen3", {}),
]


def artifact_of(source: Path, out: Path, scheme: str, **recipe: Any) -> Artifact:
    made = Recipe(f"torch-{scheme}", "torch", scheme, **recipe)
    return convert(Checkpoint.open(source), made, out, progress=NoProgress())


def loaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return what transformers makes of `folder`, in float32, and what it says of the loading."""
    import torch
    import transformers

    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    return model.eval(), found


@pytest.mark.parametrize(("architecture", "overrides"), MODELS)
def test_transformers_computes_what_the_checkpoint_does(
    make_checkpoint: Callable[..., Path], tmp_path: Path, architecture: str, overrides: Any
) -> None:
    """In float32, to the last bit: every number of the configuration arrived."""
    import torch

    checkpoint = make_checkpoint(architecture, **overrides)
    artifact_of(checkpoint, tmp_path / "a", "f32")
    ids = torch.tensor([[5, 9, 200, 31, 7, 80, 80, 3, 17, 4, 250, 66]])
    with torch.no_grad():
        found, wanted = (loaded(p)[0](ids).logits for p in (tmp_path / "a", checkpoint))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("architecture", "overrides"), [MODELS[1], MODELS[3], MODELS[6]])
def test_the_folder_is_whole_and_as_large_as_planned(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    architecture: str,
    overrides: Any,
    scheme: str,
) -> None:
    source = make_checkpoint(architecture, **overrides)
    planned = plan(Checkpoint.open(source), Recipe.of("torch", scheme))
    artifact = artifact_of(source, tmp_path / "a", scheme)
    assert artifact.entry.stat().st_size == planned.file_bytes
    assert artifact.manifest.bits_per_weight == planned.bits_per_weight
    _, found = loaded(artifact.path)
    assert not any(found.values())


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_every_stored_tensor_is_what_bitsandbytes_would_store(
    make_checkpoint: Callable[..., Path], tmp_path: Path, scheme: str
) -> None:
    """transformers quantises the checkpoint itself and saves it: the same names, types, bytes."""
    import torch
    import transformers
    from safetensors.torch import load_file

    # weights that bfloat16 and half precision both hold: nothing but the grid rounds
    source = make_checkpoint("llama", dtype=torch.bfloat16)
    options = {
        "int8": {"load_in_8bit": True},
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    }[scheme]
    wanted = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(**options),
    )
    wanted.save_pretrained(tmp_path / "theirs")
    artifact = artifact_of(source, tmp_path / "ours", scheme)
    ours, theirs = load_file(artifact.entry), load_file(tmp_path / "theirs" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        same = (ours[name] == tensor).float().mean().item()
        assert same > (0.999 if tensor.dtype in (torch.int8, torch.uint8) else 0.99), name


def test_what_stays_in_float_is_a_substitution_with_a_reason(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    artifact = artifact_of(tiny_checkpoint, tmp_path / "a", "nf4")
    kept = {s.tensor: (s.asked, s.used) for s in artifact.manifest.substitutions}
    assert kept["model.embed_tokens.weight"] == ("nf4", "bf16")
    assert kept["model.norm.weight"] == ("nf4", "bf16")
    assert "model.layers.0.mlp.up_proj.weight" not in kept
    assert all("layers' matrices" in s.why for s in artifact.manifest.substitutions)


def test_a_matrix_that_the_recipe_keeps_is_not_quantised(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    keep = {"*.0.mlp.down_proj.weight": "bf16"}
    artifact = artifact_of(tiny_checkpoint, tmp_path / "a", "int8", per_tensor=keep)
    model, found = loaded(artifact.path)
    assert not any(found.values())
    layers = model.model.layers
    assert layers[0].mlp.down_proj.weight.dtype == torch.float32
    assert layers[1].mlp.down_proj.weight.dtype == torch.int8
    wanted = Checkpoint.open(tiny_checkpoint).read("model.layers.0.mlp.down_proj.weight")
    np.testing.assert_allclose(layers[0].mlp.down_proj.weight.detach(), wanted, rtol=2**-8)


@pytest.mark.parametrize(
    ("per_tensor", "message"),
    [
        ({"*.nothing": "bf16"}, "matches no matrix"),
        ({"*.up_proj.weight": "nf4"}, "beside int8 a torch model can hold bf16"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, per_tensor: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        artifact_of(tiny_checkpoint, tmp_path / "a", "int8", per_tensor=per_tensor)
    assert not (tmp_path / "a").exists()


def test_an_importance_matrix_is_refused(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    with pytest.raises(InputError, match="no use for an importance matrix"):
        plan(checkpoint, Recipe.of("torch", "nf4"), Importance({}, 1, "text"))


def test_a_configuration_with_code_in_it_is_not_copied(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hostile = shutil.copytree(tiny_checkpoint, tmp_path / "hostile")
    config = json.loads((hostile / "config.json").read_text())
    code = {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "transformers_weights": "x.bin"}
    (hostile / "config.json").write_text(json.dumps(config | code))
    artifact = artifact_of(hostile, tmp_path / "a", "int8")
    text = (artifact.path / "config.json").read_text()
    assert "auto_map" not in text
    assert "transformers_weights" not in text


def test_a_weight_that_is_no_number_is_refused_by_name(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.inf
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight has a weight"):
        artifact_of(broken, tmp_path / "a", "nf4")
    assert not (tmp_path / "a").exists()
