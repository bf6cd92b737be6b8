"""Folders of torch models: a sound one is read, and a lie anywhere in one gets a sentence."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifact import Artifact
from edgekit.bitsandbytes_layout import quantisation_config
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.torch_folder import read_folder
from edgekit.workflows.inspect import inspect
from runtimes.load import check, load

MATRIX = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def sound(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each quantised scheme. Read only: they are shared."""
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.recipe import Recipe

    folder = tmp_path_factory.mktemp("torch")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    for scheme in ("int8", "nf4"):
        convert(checkpoint, Recipe.of("torch", scheme), folder / scheme, progress=NoProgress())
    return {scheme: folder / scheme for scheme in ("int8", "nf4")}


@pytest.fixture
def copy(sound: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda scheme: shutil.copytree(sound[scheme], tmp_path / scheme)


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the weights again, whole and well-formed, with other tensors: numpy arrays by name."""
    import torch
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    tensors = {n: t.view(torch.int16) if t.dtype == torch.bfloat16 else t
               for n, t in load_file(path).items()}  # fmt: skip
    floats = {name for name, tensor in tensors.items() if tensor.dtype == torch.int16}
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    change(arrays)
    save_file(arrays, path)
    _name_bfloat16(path, floats)


def _name_bfloat16(path: Path, names: set[str]) -> None:
    """Say in the header that the 16-bit integers `names` are bfloat16, which numpy has not."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for name in names & header.keys():
        header[name]["dtype"] = "BF16"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_a_sound_folder_says_what_it_is(sound: dict[str, Path], scheme: str) -> None:
    folder = read_folder(sound[scheme])
    config = folder.config
    assert (config.kind, config.float_name) == (scheme, "bfloat16")
    assert (config.layers, config.hidden, config.intermediate) == (2, 256, 512)
    assert len(folder.matrices()) == 14
    assert check(Artifact.open(sound[scheme])) == folder


def test_inspect_counts_the_types_of_a_safetensors_file(sound: dict[str, Path]) -> None:
    found = inspect(sound["int8"] / "model.safetensors", False, NoProgress())
    assert found["kind"] == "safetensors"
    assert found["types"] == "6 BF16, 14 F32, 14 I8, 14 U8"
    assert found["tensors"][MATRIX] == [256, 256]


def test_rewriting_alone_changes_nothing(copy: Callable[[str], Path]) -> None:
    """Else the tests below could pass for another reason than theirs."""
    for scheme in ("int8", "nf4"):
        folder = copy(scheme)
        rewrite(folder, lambda tensors: None)
        read_folder(folder)


NF4 = quantisation_config("nf4", "bfloat16", ["lm_head"])
CONFIG_LIES: list[tuple[str, dict[str, Any]]] = [
    ("auto_map", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
    ("transformers_weights", {"transformers_weights": "other.safetensors"}),
    ("_attn_implementation", {"_attn_implementation": "kernels-community/flash-attn"}),
    ("architectures", {"architectures": ["EvilForCausalLM"]}),
    ("architectures", {"architectures": "LlamaForCausalLM"}),
    ("model_type", {"model_type": "mistral"}),
    ("hidden_size", {"hidden_size": -1}),
    ("hidden_size", {"hidden_size": 256.0}),
    ("vocab_size", {"vocab_size": 2**40}),
    ("num_hidden_layers", {"num_hidden_layers": True}),
    ("10000000 layers", {"num_hidden_layers": 10_000_000}),
    ("is missing", {"num_hidden_layers": 3}),
    ("is not part of the model", {"num_hidden_layers": 1}),
    ("not BF16", {"vocab_size": 10**9}),
    (r"gate_proj\.SCB is F32 \[512\], not F32 \[1024\]", {"intermediate_size": 1024}),
    (r"q_proj\.SCB is F32 \[256\], not F32 \[512\]", {"num_attention_heads": 8}),
    ("rope_theta", {"rope_theta": float("nan")}),
    ("rope_theta", {"rope_theta": "1e4"}),
    ("rope_scaling", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    ("rope_scaling", {"rope_scaling": {"rope_type": "linear", "factor": -2.0}}),
    ("rope_scaling", {"rope_scaling": {"rope_type": "linear", "long_factor": [1.0]}}),
    ("hidden_act", {"hidden_act": "gelu"}),
    ("torch_dtype", {"torch_dtype": "float8"}),
    ("use_cache", {"use_cache": 1}),
    ("eos_token_id", {"eos_token_id": [2]}),
    ("quantization_config", {"quantization_config": {"quant_method": "gptq"}}),
    ("quantization_config", {"quantization_config": []}),
    # a sound configuration, but of weights that are stored in another way
    ("SCB' is not part of", {"quantization_config": NF4}),
    ("SCB' is not part of", {"quantization_config": None}),
    (
        "SCB' is not part of",
        {"quantization_config": quantisation_config(
            "int8", "bfloat16", ["model.layers.0.self_attn.q_proj", "lm_head"])},
    ),
    (
        "quantization_config",
        {"quantization_config": quantisation_config("int8", "bfloat16", ["lm_head"])
         | {"llm_int8_threshold": 0.0}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "lie"), CONFIG_LIES)
def test_a_lie_in_the_configuration_is_refused(
    copy: Callable[[str], Path], message: str, lie: dict[str, Any]
) -> None:
    folder = copy("int8")
    change_config(folder, lambda config: config.update(lie))
    with pytest.raises(InputError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null"], ids=range(5))
def test_a_configuration_that_is_none_is_refused(copy: Callable[[str], Path], text: str) -> None:
    folder = copy("int8")
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ('"shape": [256, 256]', '"shape": [999, 256]'),  # reads far beyond the codes
        ('"blocksize": 64', '"blocksize": 32'),
        ('"nf4"', '"fp4"'),
        ('"bfloat16"', '"float8"  '),
        ("{", "["),
    ],
)
def test_a_state_that_lies_about_its_matrix_is_refused(
    copy: Callable[[str], Path], change: str, to: str
) -> None:
    """bitsandbytes believes what stands there and follows it in C."""
    folder = copy("nf4")

    def lie(tensors: dict[str, Any]) -> None:
        name = f"{MATRIX}.quant_state.bitsandbytes__nf4"
        text = bytes(tensors[name]).decode()
        assert change in text
        changed = text.replace(change, to)
        tensors[name] = _bytes(changed.ljust(len(text)) if len(changed) < len(text) else changed)

    rewrite(folder, lie)
    with pytest.raises(InputError, match="q_proj"):
        read_folder(folder)


def _bytes(text: str) -> Any:
    import numpy as np

    return np.frombuffer(text.encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    ("scheme", "part"),
    [("nf4", ".absmax"), ("nf4", ".quant_map"), ("nf4", ""), ("int8", ""), ("int8", "SCB")],
)
def test_a_part_that_is_too_short_is_refused(
    copy: Callable[[str], Path], scheme: str, part: str
) -> None:
    folder = copy(scheme)
    name = MATRIX.removesuffix("weight") + part if part == "SCB" else MATRIX + part
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name][:-1].copy()}))
    with pytest.raises(InputError, match=r"q_proj\.\S+ is"):
        read_folder(folder)
    rewrite(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match="is missing"):
        read_folder(folder)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "adapter_config.json", "modeling.py", "model.safetensors.index.json"],
)
def test_files_that_could_be_run_or_unpickled_are_refused(
    copy: Callable[[str], Path], name: str
) -> None:
    folder = copy("int8")
    (folder / name).write_bytes(b"{}")
    with pytest.raises(InputError, match=f"holds {name}"):
        read_folder(folder)


def test_every_truncation_is_refused_before_a_worker_starts(copy: Callable[[str], Path]) -> None:
    folder = copy("nf4")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for length in (0, 7, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        manifest = json.loads((folder / "edgekit.json").read_text())
        entry = next(f for f in manifest["files"] if f["path"] == "model.safetensors")
        entry["bytes"] = length  # a manifest that goes along with it
        (folder / "edgekit.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
            load(Artifact.open(folder))


def test_a_missing_file_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("int8")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        read_folder(folder)
