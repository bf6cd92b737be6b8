"""A store with an artifact for each engine, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def artifacts_of_each_engine(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a home whose artifacts/ holds one of each format. Read only: it is shared."""
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    home = tmp_path_factory.mktemp("home")
    for format_name, scheme in (("gguf", "q8_0"), ("onnx", "int8"), ("torch", "nf4")):
        recipe = Recipe(name="tiny", format=format_name, scheme=scheme)
        folder = home / "artifacts" / format_name
        convert(Checkpoint.open(tiny_checkpoint), recipe, folder, progress=NoProgress())
    return home
