"""Checkpoints: what safetensors reads is what we read, and a broken one gets a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from edgekit.errors import InputError


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_are_those_of_safetensors(make_checkpoint: Callable[..., Path], dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    folder = make_checkpoint("qwen3", dtype=getattr(torch, dtype))
    checkpoint = Checkpoint.open(folder)
    expected = load_file(folder / "model.safetensors")
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(checkpoint.read(name), tensor.float().numpy())


def test_rows_are_read_alone(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    name = "model.layers.0.mlp.up_proj.weight"
    whole = checkpoint.read(name)
    np.testing.assert_array_equal(checkpoint.read(name, 5, 7), whole[5:12])
    np.testing.assert_array_equal(checkpoint.read(name, len(whole) - 2, 99), whole[-2:])


def test_shards_are_found_by_the_index(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    sharded, whole = Checkpoint.open(tmp_path), Checkpoint.open(tiny_checkpoint)
    assert sharded.tensors.keys() == whole.tensors.keys()
    for name in whole.tensors:
        np.testing.assert_array_equal(sharded.read(name), whole.read(name))


def test_the_digest_follows_the_content(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    digest = Checkpoint.open(tiny_checkpoint).digest()
    assert Checkpoint.open(copy).digest() == digest
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    assert Checkpoint.open(copy).digest() != digest


def test_a_file_cut_after_opening_is_noticed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    checkpoint = Checkpoint.open(copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    last = max(checkpoint.tensors.values(), key=lambda info: info.offset)
    with pytest.raises(InputError, match="ends inside tensor"):
        checkpoint.read(last.name)


def test_an_index_may_not_point_outside(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="points outside"):
        Checkpoint.open(copy)


def test_a_missing_tensor_is_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"tensor model\.nothing is missing"):
        Checkpoint.open(tiny_checkpoint).read("model.nothing")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_configuration_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        Checkpoint.open(tmp_path)
