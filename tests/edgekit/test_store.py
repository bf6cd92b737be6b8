"""The store: what is found by name, and what an install from a bundle adds to it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edgekit import store
from edgekit.errors import InputError


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of installed artifacts of an interpreter whose prefix is a new folder."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "version"))
    folder = tmp_path / "version" / "share" / "edgekit" / "artifacts"
    folder.mkdir(parents=True)
    return folder


def put(folder: Path, name: str, age_s: float = 0.0) -> Path:
    (folder / name).mkdir(parents=True)
    manifest = folder / name / "edgekit.json"
    manifest.write_text("{}")
    os.utime(manifest, (1e9 - age_s, 1e9 - age_s))
    return folder / name


def test_an_installed_artifact_is_found_by_name_and_listed(device: Path) -> None:
    installed = put(device, "brought")
    mine = put(store.artifacts(), "made")
    assert store.find_artifact("brought") == installed
    assert store.list_artifacts() == [installed, mine]


def test_the_users_own_hides_the_installed_one_of_that_name(device: Path) -> None:
    put(device, "same")
    mine = put(store.artifacts(), "same")
    assert store.find_artifact("same") == mine
    assert store.list_artifacts() == [mine]


def test_the_hint_names_both_kinds(device: Path) -> None:
    put(device, "brought")
    put(store.artifacts(), "made")
    with pytest.raises(InputError) as caught:
        store.find_artifact("nonsuch")
    assert caught.value.hint == "the store holds: brought, made"


def test_without_an_install_nothing_changes() -> None:
    assert store.list_artifacts() == []
    assert store.default_artifact() is None
    with pytest.raises(InputError, match="there is no artifact"):
        store.find_artifact("nonsuch")


def test_the_default_is_the_newest_of_ones_own_else_the_first_of_the_bundle(device: Path) -> None:
    put(device, "a-second")
    first = put(device, "b-first")
    (device.parents[2] / "bundle.json").write_text(
        json.dumps({"artifacts": ["artifacts/b-first", "artifacts/a-second"]})
    )
    assert store.default_artifact() == first
    newer = put(store.artifacts(), "newer")
    put(store.artifacts(), "older", age_s=100.0)
    assert store.default_artifact() == newer


def test_the_default_is_one_to_chat_with(device: Path) -> None:
    older = put(store.artifacts(), "older", age_s=100.0)
    put(store.artifacts(), "classes")
    (store.artifacts() / "classes" / "edgekit.json").write_text('{"task": {"kind": "classes"}}')
    assert store.default_artifact() == older


@pytest.mark.parametrize("text", ["", "{", "[]", '{"artifacts": 5}', "[" * 100_000])
def test_a_bundle_manifest_that_makes_no_sense_is_passed_over(device: Path, text: str) -> None:
    only = put(device, "only")
    (device.parents[2] / "bundle.json").write_text(text)
    assert store.default_artifact() == only


def test_hidden_folders_are_no_artifacts(device: Path) -> None:
    put(device, ".staging")
    put(store.artifacts(), ".made.partial")
    assert store.list_artifacts() == []
