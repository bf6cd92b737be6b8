"""A task in a manifest: it comes back as it was written, and whatever is wrong in it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifact import Artifact, Manifest, Source, finish
from edgekit.errors import InputError, UsageError
from edgekit.task import Task, require_chat


def written(folder: Path, task: Task | None) -> Path:
    """Write an artifact with `task`, its graphs empty files."""
    for name in ("model.onnx", "decoder_model.onnx"):
        (folder / name).touch()
    manifest = Manifest(
        name="tiny", format="onnx", scheme="int8", entry="model.onnx", architecture="X",
        parameters=1, vocabulary_size=10, context_length=8, kv_bytes_per_token=0,
        bits_per_weight=8.0, bos_token_id=None, add_bos_token=False, stop_token_ids=[],
        chat_template=None, files=[], source=Source("x", "0" * 64, "unknown", {}, {}), task=task,
    )  # fmt: skip
    finish(folder, manifest)
    return folder


@pytest.mark.parametrize(
    "task",
    [
        Task("classes", ["bad", "good"]),
        Task("entities", ["O", "B-X", "I-X"]),
        Task("pairs", [], "decoder_model.onnx", 0),
    ],
)
def test_a_task_comes_back_as_it_was_written(tmp_path: Path, task: Task) -> None:
    assert Artifact.open(written(tmp_path, task)).manifest.task == task


def test_a_model_for_chats_has_none_and_its_manifest_says_nothing_of_it(tmp_path: Path) -> None:
    found = Artifact.open(written(tmp_path, None))
    assert found.manifest.task is None
    assert "task" not in json.loads((tmp_path / "edgekit.json").read_text())
    require_chat("tiny", found.manifest.task)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([], "not a JSON object"),
        ({"kind": "songs"}, "'kind' is 'songs', known are"),
        ({"labels": ["one"]}, "1 labels, not 2 to 1000"),
        ({"labels": ["one", "one"]}, "2 labels, not 2 to 1000 different ones"),
        ({"labels": ["one", 2]}, "every label should be a text"),
        ({"labels": [str(n) for n in range(1001)]}, "1001 labels"),
        ({"kind": "pairs"}, "'start_token_id' should be int"),
        ({"kind": "pairs", "start_token_id": 0}, "'decoder' is None"),
        ({"kind": "pairs", "start_token_id": 0, "decoder": "../x"}, "no file of the artifact"),
        ({"kind": "pairs", "start_token_id": 10, "decoder": "model.onnx"}, "no token below 10"),
    ],
)
def test_what_is_wrong_in_a_task_is_told(tmp_path: Path, wrong: Any, why: str) -> None:
    file = written(tmp_path, Task("classes", ["bad", "good"])) / "edgekit.json"
    document = json.loads(file.read_text())
    document["task"] = document["task"] | wrong if isinstance(wrong, dict) else wrong
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=why):
        Artifact.open(tmp_path)


def test_nobody_chats_with_it() -> None:
    with pytest.raises(UsageError, match="is no model to talk to: it finds the entities"):
        require_chat("tiny", Task("entities", ["O", "B-X"]))
