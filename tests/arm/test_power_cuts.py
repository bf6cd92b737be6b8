"""The power fails while a bundle is installed: what `current` points to stays whole.

Each cut happens in a virtual machine of its own that upgrades in a loop; the disk is then read by
a second boot, after ext4 has recovered its journal, by code that is not the installer's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.workflows.bundle.keys import make_key

from .packages import cache_folder
from .power_machine import PowerMachine, make_disk, random_moment
from .small_bundle import make_small_bundle

pytestmark = [pytest.mark.arm, pytest.mark.xdist_group("power")]  # beside the board's tests
CUTS = 10
LONGEST_S = 12.0
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def machine() -> PowerMachine:
    return PowerMachine.make(cache_folder())


@pytest.fixture(scope="module")
def fresh_disk(machine: PowerMachine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a disk with three bundles and nothing installed."""
    tree = tmp_path_factory.mktemp("disk")
    key = make_key(tmp_path_factory.mktemp("key") / "private.key")
    for seed, name in enumerate(("a", "b", "c")):
        make_small_bundle(tree / "bundles" / name, seed, key)
    shutil.copy(HERE / "power_guest.py", tree / "guest.py")
    shutil.copy(HERE / "installation.py", tree)
    image = tmp_path_factory.mktemp("image") / "data.ext4"
    make_disk(image, tree, 96)
    return image


def _cut(machine: PowerMachine, disk: Path, job: str, seed: int) -> tuple[list[str], list[str]]:
    """Return what the guest said until the cut, and what the judge said after it."""
    said = machine.cut(disk, job, random_moment(seed, LONGEST_S))
    return said, machine.run(disk, "judge")


@pytest.mark.parametrize("seed", range(CUTS))
def test_a_power_cut_leaves_whole_versions(
    machine: PowerMachine, fresh_disk: Path, tmp_path: Path, seed: int
) -> None:
    disk = Path(shutil.copy(fresh_disk, tmp_path))
    said, judged = _cut(machine, disk, "install", seed)
    assert judged[-1:] == ["judged"], judged
    assert not [line for line in judged if line.startswith("fault")], (said, judged)
    finished = [line for line in said if line.startswith("end")]
    assert all(line.split()[3] == "0" for line in finished), finished
    if finished:
        assert "link current True" in judged
    if len(finished) > 1:
        assert "link previous True" in judged


def test_without_fsync_the_same_cuts_destroy(
    machine: PowerMachine, fresh_disk: Path, tmp_path: Path
) -> None:
    """The control: were the cuts harmless, the test above would say nothing.

    A fault has to be seen and told: a machine that does not boot is no evidence.
    """
    for seed in range(CUTS):
        disk = Path(shutil.copy(fresh_disk, tmp_path))
        _, judged = _cut(machine, disk, "careless", seed)
        if any(line.startswith("fault") for line in judged):
            return
    pytest.fail(f"{CUTS} cuts without fsync harmed nothing")
