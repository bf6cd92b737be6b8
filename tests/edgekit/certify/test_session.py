"""A whole check, with everything that can be asked for, stores figures that agree."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.workflows.certify import questions, session
from edgekit.workflows.certify.session import Wanted
from edgekit.workflows.check import certify


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "load", partial(session.load, in_process=True))


@pytest.fixture
def made(make_checkpoint: Any, tmp_path: Path) -> tuple[Artifact, Path]:
    """An artifact whose context holds the long text."""
    folder = make_checkpoint("llama", max_position_embeddings=1024)
    recipe = Recipe.of("gguf", "q8_0")
    return (
        convert(Checkpoint.open(folder), recipe, tmp_path / "a", progress=NoProgress()),
        folder,
    )


@pytest.mark.slow
def test_everything_is_stored(
    made: tuple[Artifact, Path], in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = questions.questions()[:3]
    monkeypatch.setattr(questions, "questions", lambda: few)
    artifact, folder = made
    checked = certify(artifact, folder, Wanted(full=True), NoProgress())
    found = checked.certificate
    assert found is not None
    assert [report.ok for report in found.stages] == [True] * 4
    assert Artifact.open(artifact.path).manifest.certificate == found
    assert list(found.by_kind) == ["prose", "code", "languages", "figures", "dialogue", "long"]
    for figures in found.by_kind.values():
        assert figures["kld_low"] < figures["kld_mean"] < figures["kld_high"]
    # one long window, of which only the second half counts, and not in the mean over all
    assert found.by_kind["long"]["positions"] == 512
    short = [v for kind, v in found.by_kind.items() if kind != "long"]
    assert sum(v["positions"] for v in short) == found.positions
    mean = sum(v["positions"] * v["kld_mean"] for v in short) / found.positions
    assert found.kld_mean == pytest.approx(mean)
    assert found.kld_low is not None
    assert found.kld_high is not None
    assert found.kld_low < found.kld_mean < found.kld_high
    assert found.greedy is not None
    assert len(found.greedy.parted_at) == 5
    assert found.generation is not None
    assert found.generation.questions == 3
    assert found.generation.same_answers >= 1  # 8 bits: most answers are the same
    json.dumps(artifact.manifest.to_json().decode(), allow_nan=False)


def test_a_text_of_ones_own_that_is_empty_is_bad_input(
    made: tuple[Artifact, Path], tmp_path: Path
) -> None:
    text = tmp_path / "empty.txt"
    text.write_text(" \n")
    with pytest.raises(InputError, match="holds no text"):
        certify(*made, Wanted(text=text), NoProgress())


def test_another_checkpoint_is_bad_input(made: tuple[Artifact, Path], make_checkpoint: Any) -> None:
    with pytest.raises(InputError, match="was not made from"):
        certify(made[0], make_checkpoint("qwen2"), Wanted(), NoProgress())
