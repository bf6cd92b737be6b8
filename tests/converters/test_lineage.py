"""The record of a stage: written, read back, and refused when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.lineage import STAGE_FILE, Stage, read_stage, write_stage
from edgekit.errors import InputError

STAGE = Stage("pruned", "/models/parent", "0123456789abcdef" * 4, {"layers": [3, 4], "kl": 0.25})


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder, {}, {})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_stage(checkpoint(tmp_path)) is None
    write_stage(tmp_path, STAGE)
    assert read_stage(checkpoint(tmp_path)) == STAGE


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"kind": "polished"},
        {"kind": None},
        {"parent": ""},
        {"parent_digest": "abc"},
        {"how": []},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    write_stage(tmp_path, STAGE)
    document = json.loads((tmp_path / STAGE_FILE).read_text())
    (tmp_path / STAGE_FILE).write_text(json.dumps(document | change))
    with pytest.raises(InputError, match="not a record of a stage"):
        read_stage(checkpoint(tmp_path))


def test_a_record_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / STAGE_FILE).write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_stage(checkpoint(tmp_path))


def test_figures_that_json_cannot_hold_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_stage(tmp_path, Stage("healed", "/p", "0" * 64, {"loss": float("nan")}))
    assert not (tmp_path / STAGE_FILE).exists()
