"""Old states of runs go, those in use stay."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgekit.files import file_lock
from edgekit.train.leftovers import lock_of, remove_old_runs


def a_run(place: Path, name: str, days: float) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_bytes(b"x" * 1000)
    then = time.time() - days * 86400
    for path in (folder / "state.safetensors", folder):
        os.utime(path, (then, then))
    return folder


def test_old_runs_go_and_young_ones_stay(tmp_path: Path) -> None:
    old, young = a_run(tmp_path, "run-a", 31), a_run(tmp_path, "run-b", 29)
    other, own = a_run(tmp_path, "lessons-c", 90), a_run(tmp_path, "run-d", 90)
    (found,) = remove_old_runs(tmp_path, beside=own)
    assert (found.folder, found.bytes) == (old, 1000)
    assert 30.9 < found.days < 31.1
    assert sorted(path for path in tmp_path.iterdir()) == [other, young, own]
    assert remove_old_runs(tmp_path / "nowhere", beside=own) == []


def test_a_run_with_one_young_file_is_young(tmp_path: Path) -> None:
    run = a_run(tmp_path, "run-a", 90)
    (run / "state.safetensors").touch()
    assert remove_old_runs(tmp_path, beside=tmp_path) == []


def test_a_run_in_use_stays_however_old(tmp_path: Path) -> None:
    run = a_run(tmp_path, "run-a", 90)
    with file_lock(lock_of(run)):
        assert remove_old_runs(tmp_path, beside=tmp_path) == []
        assert run.exists()
    assert len(remove_old_runs(tmp_path, beside=tmp_path)) == 1
