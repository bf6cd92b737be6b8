"""A folder with a tiny artifact for each engine, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_artifacts(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the artifacts `gguf` and `onnx`. Read only: it is shared."""
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    folder = tmp_path_factory.mktemp("artifacts")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    for format_, scheme in (("gguf", "q8_0"), ("onnx", "int8")):
        recipe = Recipe.of(format_, scheme)
        convert(checkpoint, recipe, folder / format_, progress=NoProgress())
    return folder
