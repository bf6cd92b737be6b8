"""Device profiles: every shipped file is right, and a typo is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.profile import PROFILES, load_profile, names
from edgekit.errors import InputError


@pytest.mark.parametrize("name", names())
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.memory_bandwidth_gb_per_s > 0
    assert profile.memory_bandwidth_source
    assert set(profile.engines) <= {"gguf", "onnx"}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text((PROFILES / "raspberry-pi-5-8gb.toml").read_text())
    return path


def test_a_file_of_ones_own_is_a_profile(own: Path) -> None:
    assert load_profile(str(own)).name == "mine"


def test_a_typo_names_the_nearest_key(own: Path) -> None:
    own.write_text(own.read_text().replace("cores =", "core ="))
    with pytest.raises(InputError, match="unknown key 'core'") as caught:
        load_profile(str(own))
    assert caught.value.hint == "did you mean 'cores'?"


@pytest.mark.parametrize("line", ['cores = "four"', "cores = -4", "cores = true"])
def test_a_wrong_type_is_named(own: Path, line: str) -> None:
    own.write_text(own.read_text().replace("cores = 4", line))
    with pytest.raises(InputError, match="'cores' should be int"):
        load_profile(str(own))


def test_a_missing_key_is_named(own: Path) -> None:
    own.write_text(own.read_text().replace("cores = 4", ""))
    with pytest.raises(InputError, match="'cores'"):
        load_profile(str(own))


def test_an_unknown_device_gets_a_suggestion() -> None:
    with pytest.raises(InputError) as caught:
        load_profile("raspbery-pi-5-8gb")
    assert "raspberry-pi-5-8gb" in caught.value.hint
