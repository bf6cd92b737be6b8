"""Checkpoints: what safetensors reads is what we read, and a broken one gets a sentence."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint, read_header
from edgekit.errors import InputError

GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
}


def write_safetensors(path: Path, header: Any, data: bytes = bytes(32)) -> Path:
    """Write a safetensors file with any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


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


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    infos = list(read_header(write_safetensors(tmp_path / "m", GOOD)))
    assert [(i.name, i.shape, i.bytes) for i in infos] == [("a", (2, 3), 24), ("b", (4,), 8)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a", {"dtype": "F4"}), ("a", {"shape": [2, 4]}), ("a", {"shape": [2**40, 2**40]}),
        ("a", {"shape": [-2, -3]}), ("a", {"shape": [2.0, 3]}), ("a", {"shape": [True, 6]}),
        ("a", {"shape": [1] * 9}), ("a", {"shape": 6}), ("a", {"data_offsets": [0]}),
        ("a", {"data_offsets": [-24, 0]}), ("b", {"data_offsets": [0, 8]}),
        ("b", {"data_offsets": [28, 36]}), ("b", {"data_offsets": [2**60, 2**60 + 8]}),
        ("b", {"shape": [3], "data_offsets": [24, 30]}),
    ],
)  # fmt: skip
def test_a_lie_in_the_header_is_refused(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    header = GOOD | {name: GOOD[name] | change}
    with pytest.raises(InputError, match="is damaged"):
        list(read_header(write_safetensors(tmp_path / "m", header)))


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":7}']
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InputError, match="is damaged"):
        list(read_header(write_safetensors(tmp_path / "m", header)))


@pytest.mark.parametrize("claim", [2**63, 10**9, 1000])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, claim: int) -> None:
    path = tmp_path / "m"
    path.write_bytes(struct.pack("<Q", claim) + b"{}")
    with pytest.raises(InputError, match="claims"):
        list(read_header(path))


def test_every_truncation_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = (tiny_checkpoint / "model.safetensors").read_bytes()
    path = tmp_path / "m"
    for length in [*range(0, 64, 7), 1000, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="is damaged"):
            list(read_header(path))


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
