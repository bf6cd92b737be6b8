"""Artifacts for latency tests: tiny ones of both engines, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.progress import NoProgress


@pytest.fixture(scope="session")
def tiny_home(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose artifacts/ holds `gguf` and `onnx`. Read only: it is shared."""
    home = tmp_path_factory.mktemp("home")
    for format_name, scheme in (("gguf", "q8_0"), ("onnx", "int8")):
        recipe = Recipe(name=f"tiny-{format_name}", format=format_name, scheme=scheme)
        folder = home / "artifacts" / format_name
        convert(Checkpoint.open(tiny_checkpoint), recipe, folder, progress=NoProgress())
    return home
