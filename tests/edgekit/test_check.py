"""check notices what a conversion can break: other tokens, another prompt, other weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.files import sha256_file
from edgekit.gguf_header import read_header
from edgekit.progress import NoProgress
from edgekit.workflows.check import check


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


def converted(checkpoint: Checkpoint, recipe: Recipe, folder: Path) -> Artifact:
    return convert(checkpoint, recipe, folder / "artifact", progress=NoProgress())


def reseal(folder: Path, **values: Any) -> Artifact:
    """Write the manifest again after a change, with right sizes and hashes."""
    path = folder / "edgekit.json"
    document = json.loads(path.read_text()) | values
    for entry in document["files"]:
        file = folder / entry["path"]
        entry |= {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    path.write_text(json.dumps(document))
    return Artifact.open(folder)


def certificate_of(artifact: Artifact, checkpoint: Checkpoint) -> Any:
    return check(artifact, checkpoint, None, NoProgress()).manifest.certificate


def test_float32_has_no_divergence(checkpoint: Checkpoint, tmp_path: Path) -> None:
    artifact = converted(checkpoint, Recipe.of("gguf", "f32"), tmp_path)
    certificate = certificate_of(artifact, checkpoint)
    assert certificate.kld_mean < 1e-5
    assert certificate.token_ids_equal
    assert Artifact.open(artifact.path).manifest.certificate == certificate


@pytest.mark.slow
def test_rows_of_the_query_in_another_order_are_noticed(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    artifact = converted(checkpoint, Recipe.of("gguf", "f32"), tmp_path)
    tensor = next(t for t in read_header(artifact.entry).tensors if t.name == "blk.0.attn_q.weight")
    with artifact.entry.open("r+b") as stream:
        stream.seek(tensor.offset)
        rows = np.frombuffer(stream.read(tensor.bytes), np.float32).reshape(tensor.shape[1], -1)
        stream.seek(tensor.offset)
        stream.write(np.ascontiguousarray(rows[::-1]).tobytes())
    assert certificate_of(reseal(artifact.path), checkpoint).kld_mean > 0.01


@pytest.mark.slow
def test_another_tokenizer_is_noticed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    artifact = converted(checkpoint, Recipe.of("onnx", "int8"), tmp_path)
    path = artifact.path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    steps = tokenizer["pre_tokenizer"]["pretokenizers"]
    tokenizer["pre_tokenizer"]["pretokenizers"] = [s for s in steps if s["type"] != "Digits"]
    path.write_text(json.dumps(tokenizer))
    assert not certificate_of(reseal(artifact.path), checkpoint).token_ids_equal


@pytest.mark.slow
def test_another_chat_template_is_noticed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    artifact = converted(checkpoint, Recipe.of("gguf", "q8_0"), tmp_path)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    changed = reseal(artifact.path, chat_template=template)
    assert not certificate_of(changed, checkpoint).token_ids_equal
