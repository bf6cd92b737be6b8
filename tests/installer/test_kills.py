"""Killed at every change of the file system: `current` is whole, and the next run repairs it.

By default a sample of the points; EDGEKIT_KILL_POINTS=all takes every one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.installer import disk, install, prefix

from .kill_points import count_changes, run_command
from .tiny_bundle import INTERPRETER, current, make_bundle, version_id

ALL = os.environ.get("EDGEKIT_KILL_POINTS") == "all"
SAMPLED = 9
QUICK = ["--no-compile"]


@dataclass
class Bundles:
    """Three bundles, and a prefix that holds the first two of them."""

    folders: list[Path]
    installed: Path

    def id(self, number: int) -> str:
        return version_id(self.folders[number])


@pytest.fixture(scope="module")
def bundles(module_folder: Path) -> Bundles:
    folder = module_folder
    model_bytes = install.LINK_BYTES + 1000
    made = [make_bundle(folder / f"v{n}", f"v{n}", model_bytes=model_bytes) for n in range(3)]
    installed = folder / "installed"
    for bundle in made[:2]:
        assert run_command(["upgrade", str(bundle), "--prefix", str(installed), *QUICK]) == 0
    return Bundles(made, installed)


@dataclass
class Scenario:
    """One command on one start; what may be current after a kill; how the next run ends."""

    arguments: list[str]
    start: Path | None
    allowed: set[str]
    repair: Callable[[Path], None]


def _scenario(name: str, bundles: Bundles, outside: Path) -> Scenario:
    first, second, third = (bundles.id(number) for number in range(3))
    paths = [str(folder) for folder in bundles.folders]
    if name == "install":
        wishes = ["--desktop", "--desktop-folder", str(outside)]
        arguments = ["upgrade", paths[0], *QUICK, *wishes]
        return Scenario(arguments, None, {"", first}, _again(arguments, first, ""))
    if name == "upgrade":
        arguments = ["upgrade", paths[2], *QUICK]
        allowed = {second, third}
        return Scenario(arguments, bundles.installed, allowed, _again(arguments, third, second))
    if name == "rollback":
        return Scenario(["rollback"], bundles.installed, {first, second}, _rolled_back)
    return Scenario(["uninstall"], bundles.installed, {"", second}, _uninstalled(bundles))


def _again(arguments: list[str], wanted: str, before: str) -> Callable[[Path], None]:
    def repair(folder: Path) -> None:
        assert run_command([*arguments, "--prefix", str(folder)]) == 0
        assert current(folder) == wanted
        _is_clean(folder, {wanted, before} - {""})

    return repair


def _rolled_back(folder: Path) -> None:
    assert run_command(["rollback", "--prefix", str(folder)]) == 0
    _is_clean(folder, {current(folder), (folder / "previous").readlink().name})
    assert len(os.listdir(folder / "versions")) == 2


def _uninstalled(bundles: Bundles) -> Callable[[Path], None]:
    def repair(folder: Path) -> None:
        program = folder / "bin" / "edgekit-device"
        if program.exists():
            done = subprocess.run([program, "uninstall"], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        elif folder.exists():
            stub = [INTERPRETER, bundles.folders[1] / "install.py", "uninstall"]
            done = subprocess.run([*stub, "--prefix", folder], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        assert not folder.exists(), sorted(folder.rglob("*"))

    return repair


def _is_clean(folder: Path, versions: set[str]) -> None:
    """The versions wanted and nothing half-made; every link leads to one of them."""
    assert set(os.listdir(folder / "versions")) == versions
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert hidden == []
    assert not (folder / "switching.json").exists()
    for link in ("current", "previous"):
        if (folder / link).is_symlink():
            assert (folder / link).readlink().name in versions


def _start(scenario: Scenario, folder: Path) -> None:
    for leftover in (folder.parent, folder.parent.parent / "outside"):
        shutil.rmtree(leftover, ignore_errors=True)
    if scenario.start is not None:
        shutil.copytree(scenario.start, folder, symlinks=True)


def _points(total: int) -> list[int]:
    """Return the points to try: all, or a sample that always holds the last ones (the switch)."""
    if ALL:
        return list(range(1, total + 1))
    spread = {1 + index * (total - 1) // (SAMPLED - 1) for index in range(SAMPLED)}
    return sorted(spread)


@pytest.mark.parametrize("name", ["install", "upgrade", "rollback", "uninstall"])
def test_a_kill_at_any_change_leaves_a_whole_current(
    name: str, bundles: Bundles, folder: Path
) -> None:
    log, outside, folder = folder / "log", folder / "outside", folder / "deep" / "prefix"
    scenario = _scenario(name, bundles, outside)
    arguments = [*scenario.arguments, "--prefix", str(folder)]
    _start(scenario, folder)
    changes = count_changes(arguments, log)
    points = _points(len(changes))
    for point in points:
        _start(scenario, folder)
        assert run_command(arguments, point) == -9, f"point {point} of {len(changes)}"
        assert current(folder) in scenario.allowed, f"killed at {point}, {changes[point - 1]}"
        scenario.repair(folder)
    print(f"{name}: {len(points)} of {len(changes)} points", file=sys.stderr)


def _break_by_unlinking() -> None:
    """Make the switch as a beginner would: remove the link, then make it again."""

    def point_link(link: Path, target: str) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    prefix.point_link = point_link  # type: ignore[assignment]


def _break_by_copying_in_place() -> None:
    """Write the new version's files into the folder that is in use."""
    real = install._Installation._make_version

    def make_version(self: install._Installation) -> str:
        name = self.bundle.id
        (self.prefix.versions / name).mkdir()
        disk.point_link(self.prefix.path / "current", f"versions/{name}")
        type(self.prefix).staging = lambda own, name: own.versions / name  # type: ignore[method-assign]
        self._free_name = lambda: name  # type: ignore[method-assign]
        return real(self)

    install._Installation._make_version = make_version  # type: ignore[method-assign]


@pytest.mark.parametrize("break_it", [_break_by_unlinking, _break_by_copying_in_place])
def test_the_harness_notices_an_installer_that_is_not_atomic(
    break_it: Callable[[], None], bundles: Bundles, folder: Path
) -> None:
    log, folder = folder / "log", folder / "deep" / "prefix"
    scenario = _scenario("upgrade", bundles, folder)
    arguments = [*scenario.arguments, "--prefix", str(folder)]
    _start(scenario, folder)
    changes = count_changes(arguments, log, break_it)
    links = [number for number, change in enumerate(changes, 1) if change == "os.symlink"]
    noticed = False
    for point in [*reversed(links), len(changes) // 2]:
        _start(scenario, folder)
        run_command(arguments, point, break_it)
        noticed = noticed or not _is_allowed(folder, scenario)
    assert noticed


def _is_allowed(folder: Path, scenario: Scenario) -> bool:
    try:
        return current(folder) in scenario.allowed
    except AssertionError:
        return False
