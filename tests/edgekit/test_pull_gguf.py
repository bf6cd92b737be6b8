"""Pulling a GGUF file: imported, recorded, and known again by its content."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit import store
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.workflows.pull import pull, verify


@pytest.fixture
def gguf_file(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Return `tiny.q8.gguf`, the tiny checkpoint with its weights in eight bits."""
    artifact = convert(
        Checkpoint.open(tiny_checkpoint),
        Recipe.of("gguf", "q8_0"),
        tmp_path / "artifact",
        progress=NoProgress(),
    )
    return artifact.entry.rename(tmp_path / "tiny.q8.gguf")


def test_a_gguf_file_becomes_a_checkpoint(gguf_file: Path, tiny_checkpoint: Path) -> None:
    pulled = pull(str(gguf_file))
    assert pulled.path == store.models() / "tiny.q8"
    original, imported = Checkpoint.open(tiny_checkpoint), Checkpoint.open(pulled.path)
    name = "model.layers.1.self_attn.q_proj.weight"
    # Eight bits a weight: half a step of the largest weight of a block is the most that is lost.
    step = np.abs(original.read(name)).max() / 127
    np.testing.assert_allclose(imported.read(name), original.read(name), atol=0.51 * step)
    document = json.loads((pulled.path / "edgekit-source.json").read_text())
    content = gguf_file.read_bytes()
    assert document["upstream"] == [
        {
            "path": "tiny.q8.gguf",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    assert verify(pulled.path).bytes == pulled.bytes


def test_it_is_known_again_by_its_content(gguf_file: Path) -> None:
    first = pull(str(gguf_file))
    moved = gguf_file.rename(gguf_file.with_name("moved.gguf"))
    assert pull(str(moved), name="tiny.q8").path == first.path
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    with pytest.raises(InputError, match=r"came from .*tiny\.q8\.gguf"):
        pull(str(moved), name="tiny.q8")


@pytest.mark.parametrize("keep_bytes", [0, 3, 30, 1000, -1])
def test_a_truncated_file_leaves_nothing(gguf_file: Path, keep_bytes: int) -> None:
    gguf_file.write_bytes(gguf_file.read_bytes()[:keep_bytes])
    with pytest.raises(InputError):
        pull(str(gguf_file))
    assert os.listdir(store.models()) == []
