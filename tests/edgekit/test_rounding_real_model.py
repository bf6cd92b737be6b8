"""Compensated rounding of the real model: closer in its engine, on every kind of text."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.import_gguf import import_gguf
from converters.recipe import Recipe
from edgekit.progress import NoProgress
from edgekit.workflows.certify.session import Wanted
from edgekit.workflows.check import certify
from edgekit.workflows.conversion import Care, Request, run_request

from ..real_model import real_gguf

pytestmark = pytest.mark.model
LEAST_GAIN = 0.15  # of the divergence, at the bytes of llama.cpp's own


@pytest.fixture
def every_core() -> Iterator[None]:
    """Let torch use the whole machine: nothing runs beside these tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that is removed at once: pytest would keep a gigabyte."""
    with tempfile.TemporaryDirectory(prefix="edgekit-real-") as name:
        monkeypatch.setenv("EDGEKIT_HOME", f"{name}/home")
        yield Path(name)


@pytest.mark.usefixtures("every_core")
def test_compensated_codes_are_closer_on_every_kind_of_text(folder: Path) -> None:
    (folder / "checkpoint").mkdir()
    import_gguf(real_gguf(), folder / "checkpoint")
    checkpoint = Checkpoint.open(folder / "checkpoint")
    recipe = Recipe.of("gguf", "iq4_nl")
    cares: tuple[Care, ...] = ("calibrated", "compensated")
    found, sizes = [], set()
    for care in cares:
        out = folder / care
        artifact = run_request(Request(checkpoint, recipe, care), out, progress=NoProgress())
        checked = certify(artifact, checkpoint.path, Wanted(), NoProgress())
        assert checked.certificate is not None, checked.stages
        found.append(checked.certificate)
        sizes.add(artifact.entry.stat().st_size)
    calibrated, compensated = found
    assert len(sizes) == 1
    for kind, figures in calibrated.by_kind.items():
        gained = 1 - compensated.by_kind[kind]["kld_mean"] / figures["kld_mean"]
        assert gained > LEAST_GAIN, kind
