"""ARM for real, without an ARM machine (marker `arm`; about half an hour for all).

What is needed comes from Debian's packages (packages.py): an ARM system of Debian 12 under
qemu-user (board.py), a small virtual machine with an ext4 disk (power_machine.py), and a qemu
plugin that counts instructions (instruction_counter.c). As root the tests install and make all
of it by themselves, once, in a cache folder (EDGEKIT_ARM_ROOT overrides where); elsewhere they
skip and say what is missing. The first run downloads about 200 MB and compiles llama.cpp for
ARM; later ones need no network.

    test_board.py          a bundle is installed, answers, is upgraded, killed, rolled back, removed
    test_instructions.py   instructions per token of the real ARM code, against a stored table
    test_power_cuts.py     the power fails in mid-install; what is installed stays whole

qemu says nothing about speed, and a qemu that accepts an instruction says nothing about a chip
with a fault. What it does show: which code runs, what it computes, what it leaves on a disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .packages import cache_folder, debian_tree, kept_home
from .stick import Stick, make_artifacts, make_stick


@contextmanager
def _kept_home() -> Iterator[Path]:
    """Work with the store that is kept."""
    home, before = kept_home(), os.environ.get("EDGEKIT_HOME")
    home.mkdir(parents=True, exist_ok=True)
    os.environ["EDGEKIT_HOME"] = str(home)
    try:
        yield home
    finally:
        if before is None:
            del os.environ["EDGEKIT_HOME"]
        else:
            os.environ["EDGEKIT_HOME"] = before


@pytest.fixture(scope="session")
def userland() -> Path:
    """Return the root of a Debian for ARM, made if it is not in the cache. Read-only by habit."""
    return debian_tree(
        cache_folder() / "board", packages=("python3",), machine="aarch64", variant="apt"
    )


@pytest.fixture(scope="session")
def artifacts(userland: Path) -> dict[str, Path]:
    """Return the real model as artifacts, by format and scheme, each with its certificate."""
    with _kept_home() as home:
        return make_artifacts(home / "artifacts")


@pytest.fixture(scope="session")
def stick(
    userland: Path, artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Stick:
    """Return a folder with two bundles, as a USB stick would carry them."""
    with _kept_home():
        return make_stick(artifacts, tmp_path_factory.mktemp("stick"))
