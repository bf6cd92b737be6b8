"""A tiny patient: an original of four layers, and what is left of it without the last one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import copied, write_checkpoint
from converters.lineage import Stage
from edgekit.progress import NoProgress


@dataclass(frozen=True)
class Patient:
    """The two checkpoints."""

    original: Checkpoint
    pruned: Checkpoint


@pytest.fixture(scope="session")
def make_patient(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Patient]:
    """Return a function that builds a patient; `overrides` go to the original's configuration."""

    def make(**overrides: object) -> Patient:
        settings = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128}
        original = Checkpoint.open(make_checkpoint("llama", **(settings | overrides)))
        kept = {n: copied(original, n) for n in original.tensors if ".layers.3." not in n}
        how = {"steps": [{"kind": "layers", "method": "by hand", "removed": [3]}]}
        stage = Stage("pruned", str(original.path), original.digest(), how)
        pruned = write_checkpoint(
            original,
            tmp_path_factory.mktemp("pruned") / "tiny-pruned",
            kept,
            config={**original.config, "num_hidden_layers": 3},
            stage=stage,
            progress=NoProgress(),
        )
        return Patient(original, pruned)

    return make


@pytest.fixture(scope="session")
def patient(make_patient: Callable[..., Patient]) -> Patient:
    """Return a patient. Read only: it is shared by all tests."""
    return make_patient()
