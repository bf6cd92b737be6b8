"""The wheel holds the five packages with their data, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"edgekit", "converters", "runtimes", "devices", "tui"}
DATA = ("*.toml", "*.tcss", "texts/*", "locks/*.txt", "demonstration/*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_five_packages_and_no_tests(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_every_module_and_every_data_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    packed = set(wheel.namelist())
    for package in PACKAGES:
        for pattern in ("*.py", *DATA):
            for path in (ROOT / package).rglob(pattern):
                assert path.relative_to(ROOT).as_posix() in packed


def test_no_other_distribution_provides_our_packages() -> None:
    owners = metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, ["edgekit"])) == {"edgekit"}


def test_the_base_install_is_click_alone() -> None:
    requires = metadata.requires("edgekit") or []
    assert [line for line in requires if "extra ==" not in line] == ["click>=8.2"]


def test_every_extra_is_pinned_in_the_constraints() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in constraints.splitlines()}
    for line in metadata.requires("edgekit") or []:
        name = line.split(";")[0].split("[")[0]
        for sign in "<>=!~":
            name = name.split(sign)[0]
        if name.strip() != "edgekit":
            assert name.strip().lower().replace("_", "-") in pinned


def test_modules_stay_readable() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): count
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
