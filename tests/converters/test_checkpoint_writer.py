"""Writing a checkpoint from another: it loads in transformers, rounds nothing, or is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import NewTensor, copied, write_checkpoint
from converters.lineage import Stage, read_stage
from edgekit.errors import InputError
from edgekit.progress import NoProgress

STAGE = Stage("healed", "/models/parent", "0" * 64, {})


def write(source: Checkpoint, out: Path, **changes: Any) -> Checkpoint:
    """Write all tensors of `source`, with `changes` to the arguments."""
    tensors = {name: copied(source, name) for name in source.tensors}
    arguments: dict[str, Any] = {"config": source.config, "stage": STAGE, "progress": NoProgress()}
    return write_checkpoint(source, out, changes.pop("tensors", tensors), **arguments | changes)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_copy_is_the_same_model(
    dtype: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = Checkpoint.open(make_checkpoint("qwen2", dtype=getattr(torch, dtype)))
    copy = write(source, tmp_path / "copy")
    models = [AutoModelForCausalLM.from_pretrained(c.path, dtype="auto") for c in (source, copy)]
    assert models[1].dtype == getattr(torch, dtype)
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert AutoTokenizer.from_pretrained(copy.path).chat_template == source.chat_template
    assert copy.generation_config == source.generation_config
    assert read_stage(copy) == STAGE


def test_values_that_the_source_type_cannot_hold_stay_as_they_are(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    source = Checkpoint.open(make_checkpoint("llama", dtype=torch.bfloat16))
    tensors = {name: copied(source, name) for name in source.tensors}
    trained = np.full(256, 1.0 + 2.0**-20, dtype=np.float32)
    tensors["model.norm.weight"] = NewTensor((256,), lambda: iter([trained[:100], trained[100:]]))
    copy = write(source, tmp_path / "copy", tensors=tensors)
    assert {info.dtype for info in copy.tensors.values()} == {"F32"}
    assert np.array_equal(copy.read("model.norm.weight"), trained)
    assert "float32" in (copy.config.get("dtype"), copy.config.get("torch_dtype"))


def test_files_are_replaced_and_left_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny_checkpoint)
    files = {"tokenizer_config.json": b'{"eos_token": "x"}', "generation_config.json": None}
    copy = write(source, tmp_path / "copy", files=files)
    assert copy.tokenizer_config == {"eos_token": "x"}
    assert not (copy.path / "generation_config.json").exists()
    assert copy.tokenizer == source.tokenizer
    with pytest.raises(ValueError, match="not a companion"):
        write(source, tmp_path / "other", files={"../outside": b""})


@pytest.mark.parametrize("card", [None, "# A model\n", "---\ntags: [x]\n---\n# A model\n"])
def test_the_licence_goes_along_without_the_record_of_the_download(
    card: str | None, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    write(Checkpoint.open(tiny_checkpoint), folder)
    (folder / "edgekit-source.json").write_text(json.dumps({"licence": "apache-2.0"}))
    if card is not None:
        (folder / "README.md").write_text(card)
    copy = write(Checkpoint.open(folder), tmp_path / "copy")
    assert not (copy.path / "edgekit-source.json").exists()
    assert copy.licence == "apache-2.0"
    assert (card or "").removeprefix("---\n") in (copy.path / "README.md").read_text()


def test_tensors_that_contradict_the_configuration_leave_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = Checkpoint.open(tiny_checkpoint)
    with pytest.raises(InputError, match="the configuration says"):
        write(source, tmp_path / "copy", config={**source.config, "intermediate_size": 256})
    short = {"model.norm.weight": NewTensor((256,), lambda: iter([np.zeros(3, np.float32)]))}
    with pytest.raises(ValueError, match="elements"):
        write(source, tmp_path / "copy", tensors=short)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_replaced_only_when_asked(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = Checkpoint.open(tiny_checkpoint)
    write(source, tmp_path / "copy")
    with pytest.raises(InputError, match="exists already"):
        write(source, tmp_path / "copy")
    write(source, tmp_path / "copy", replace=True)
