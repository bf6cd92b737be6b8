"""What the suite of faults shares: conversions made once, engines in this process, few texts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress
from edgekit.workflows.certify import greedy, session
from edgekit.workflows.certify.session import Wanted
from edgekit.workflows.check import Checked, certify

TEXT = "A kettle boils at 100 degrees. The quick brown fox jumps over the lazy dog, 12345 times. "
Make = Callable[..., tuple[Artifact, Path]]
Certify = Callable[[Artifact, Path], Checked]


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults-home")


@pytest.fixture(autouse=True)
def edgekit_home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One store for the suite: the reference of a checkpoint is measured once."""
    monkeypatch.setenv("EDGEKIT_HOME", str(shared_home))
    return shared_home


@pytest.fixture(scope="session")
def converted(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Path]]:
    """Return a function that gives a checkpoint and an artifact of it, shared: read only."""
    made: dict[str, Path] = {}

    def build(
        format_name: str, scheme: str, architecture: str = "llama", **settings: object
    ) -> tuple[Path, Path]:
        checkpoint = make_checkpoint(architecture, **settings)
        key = f"{checkpoint} {format_name} {scheme}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("artifact") / f"{format_name}-{scheme}"
            recipe = Recipe.of(format_name, scheme)
            convert(Checkpoint.open(checkpoint), recipe, made[key], progress=NoProgress())
        return checkpoint, made[key]

    return build


@pytest.fixture
def fresh(converted: Callable[..., tuple[Path, Path]], tmp_path: Path) -> Make:
    """Return a function that gives an artifact of one's own to break, and its own checkpoint."""

    def copy(
        format_name: str, scheme: str, architecture: str = "llama", **settings: object
    ) -> tuple[Artifact, Path]:
        checkpoint, artifact = converted(format_name, scheme, architecture, **settings)
        own = Path(shutil.copytree(artifact, tmp_path / "artifact"))
        theirs = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
        return Artifact.open(own), theirs

    return copy


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certify:
    """Return a function that certifies as `edgekit check` does, on a short text, in process."""
    monkeypatch.setattr(session, "load", partial(session.load, in_process=True))
    monkeypatch.setattr(greedy, "PROMPTS", greedy.PROMPTS[:1])
    monkeypatch.setattr(greedy, "TOKENS", 3)
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 3, encoding="utf-8")

    def run(artifact: Artifact, checkpoint: Path) -> Checked:
        return certify(artifact, checkpoint, Wanted(text=text), NoProgress())

    return run
