"""Debian's packages as folders: the emulated board's system and the virtual machine's.

Everything is made from Debian's archive by mmdebstrap, once, in a cache folder outside the
repository (EDGEKIT_ARM_ROOT overrides it). Refuses to know what runs there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SUITE = "bookworm"  # Debian 12: Python 3.11, glibc 2.36, as Raspberry Pi OS of the same name
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
PACKAGE_OF = {
    "arch-test": "arch-test",
    "cpio": "cpio",
    "gcc": "gcc",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64": "qemu-user",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
}
ENTER = Path(__file__).with_name("enter.py")


def cache_folder() -> Path:
    """Return the folder that keeps what takes minutes to make."""
    if chosen := os.environ.get("EDGEKIT_ARM_ROOT"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgekit-tests" / "arm"


def kept_home() -> Path:
    """Return the store in the cache folder: wheels are fetched and compiled once."""
    return cache_folder() / "home"


def need(*programs: str) -> None:
    """Install what is missing of `programs` from Debian's packages, or skip with the reason.

    One process at a time: apt-get refuses a second one.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with _lock(cache_folder() / "packages.lock"):
        _need(programs)


def _need(programs: Sequence[str]) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    unknown = [program for program in missing if program not in PACKAGE_OF]
    packages = [PACKAGE_OF[program] for program in missing if program in PACKAGE_OF]
    if unknown or os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"needs {', '.join(missing)}; as root: apt-get install {' '.join(packages)}")
    _install(packages)


def _install(packages: Sequence[str]) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=quiet, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def debian_tree(folder: Path, *, packages: Sequence[str], machine: str, variant: str) -> Path:
    """Return `folder`, holding Debian for `machine` with `packages`; made if it is not there.

    `variant` is mmdebstrap's: "extract" unpacks only, "essential" makes a system whose packages
    are configured, for which the programs of another machine have to run. Skips where it cannot.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: the system's files belong to root, and namespaces are made")
    if machine not in DEBIAN:
        pytest.skip(f"Debian's packages for {machine} are not known here")
    need("mmdebstrap", "arch-test", "qemu-aarch64-static")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _make(folder, packages, DEBIAN[machine], variant)
    return folder


def _make(folder: Path, packages: Sequence[str], architecture: str, variant: str) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    bootstrap = ["/usr/bin/mmdebstrap", "--quiet", "--mode=root", f"--variant={variant}"]
    bootstrap += [f"--include={','.join(packages)}", f"--architectures={architecture}"]
    # Through the namespace where ARM programs run; this machine's registrations stay as they are.
    enter = [sys.executable, str(ENTER), "/", "--network", "--"]
    done = subprocess.run([*enter, *bootstrap, SUITE, str(partial)], capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        pytest.skip(f"mmdebstrap could not make {folder.name}: {done.stderr.strip()[-500:]}")
    os.replace(partial, folder)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
