"""Device profiles: every shipped file is right, every figure has a source, a typo is explained."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from devices.profile import FIGURES, PROFILES, load_profile, names
from edgekit.errors import InputError

WANTED = {
    "raspberry-pi-5-4gb", "raspberry-pi-5-8gb", "raspberry-pi-5-16gb", "raspberry-pi-4",
    "raspberry-pi-zero-2-w", "jetson-orin-nano", "orange-pi-5", "intel-n100", "laptop-avx2-2015",
    "laptop-x86", "apple-m", "snapdragon-x-laptop",
}  # fmt: skip


def test_the_drawer_of_boards_is_complete() -> None:
    assert set(names()) >= WANTED


@pytest.mark.parametrize("name", names())
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.memory_bandwidth_gb_per_s > 0
    assert profile.memory_bandwidth_source
    assert set(profile.engines) <= {"gguf", "onnx"}
    assert profile.threads <= profile.cores
    assert profile.usable_memory_bytes < profile.memory_bytes
    assert profile.budget_peak_memory_bytes <= profile.usable_memory_bytes
    assert all(tag.endswith(profile.machine) for tag in profile.platform_tags)
    assert all(re.fullmatch(r"cp3\d\d", tag) for tag in profile.python_tags)
    assert profile.glibc >= (2, 28) or profile.machine == "arm64"


@pytest.mark.parametrize("name", names())
def test_every_figure_says_where_it_is_from(name: str) -> None:
    written = tomllib.loads((PROFILES / f"{name}.toml").read_text())
    figures = {key for key in written if key in FIGURES and written[key] not in ([], [0, 0], 0)}
    assert figures <= written["sources"].keys()
    assert all(len(source) > 8 for source in written["sources"].values())


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text((PROFILES / "raspberry-pi-5-8gb.toml").read_text())
    return path


def test_a_file_of_ones_own_is_a_profile(own: Path) -> None:
    assert load_profile(str(own)).name == "mine"


def test_a_typo_names_the_nearest_key(own: Path) -> None:
    own.write_text(own.read_text().replace("\ncores =", "\ncore ="))
    with pytest.raises(InputError, match="unknown key 'core'") as caught:
        load_profile(str(own))
    assert caught.value.hint == "did you mean 'cores'?"


@pytest.mark.parametrize("line", ['cores = "four"', "cores = -4", "cores = true", "cores = 1e99"])
def test_a_wrong_type_is_named(own: Path, line: str) -> None:
    own.write_text(own.read_text().replace("\ncores = 4", f"\n{line}"))
    with pytest.raises(InputError, match="'cores' should be int"):
        load_profile(str(own))


@pytest.mark.parametrize("line", ['glibc = ["2", "36"]', "glibc = [2]", "glibc = 2.36"])
def test_a_version_is_two_numbers(own: Path, line: str) -> None:
    own.write_text(own.read_text().replace("glibc = [2, 36]", line))
    with pytest.raises(InputError, match="'glibc' should be"):
        load_profile(str(own))


def test_a_missing_key_is_named(own: Path) -> None:
    own.write_text(own.read_text().replace("\ncores = 4", ""))
    with pytest.raises(InputError, match="'cores'"):
        load_profile(str(own))


@pytest.mark.parametrize("figure", ["compute_gflops", "budget_ttft_s", "glibc", "cpu_features"])
def test_a_figure_without_a_source_is_refused(own: Path, figure: str) -> None:
    head, sources = own.read_text().split("[sources]")
    own.write_text(head + "[sources]" + re.sub(rf"\n{figure} = .*", "", sources))
    with pytest.raises(InputError, match=f"the figure '{figure}' has no source") as caught:
        load_profile(str(own))
    assert figure in caught.value.hint


def test_a_source_of_nothing_is_refused(own: Path) -> None:
    own.write_text(own.read_text() + 'compute_gflop = "somewhere"\n')
    with pytest.raises(InputError, match="'compute_gflop', which is no figure") as caught:
        load_profile(str(own))
    assert caught.value.hint == "did you mean 'compute_gflops'?"


def test_figures_that_contradict_each_other_are_refused(own: Path) -> None:
    text = own.read_text().replace("usable_memory_bytes = 7_300", "usable_memory_bytes = 97_300")
    own.write_text(text)
    with pytest.raises(InputError, match="the one is a part of the other"):
        load_profile(str(own))


def test_a_bandwidth_of_zero_is_refused(own: Path) -> None:
    own.write_text(own.read_text().replace("per_s = 9.3", "per_s = 0"))
    with pytest.raises(InputError, match="memory_bandwidth_gb_per_s"):
        load_profile(str(own))


def test_an_unknown_device_gets_a_suggestion() -> None:
    with pytest.raises(InputError) as caught:
        load_profile("raspbery-pi-5-8gb")
    assert "raspberry-pi-5-8gb" in caught.value.hint
