"""For what a bundle is made: machine, system, Python; and what cannot be made at all.

Knows which wheels can exist for a target; where they come from is the business of `wheels`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.profile import DeviceProfile
from edgekit.errors import GateError, UsageError

LOCKS = Path(__file__).parent / "locks"
PYTHONS = ("3.11", "3.12", "3.13")
# manylinux_2_28 is the newest that the locks ask for: glibc 2.28 is in Debian 10 and later.
_MANYLINUX = ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014")
_MACOS = tuple(f"macosx_{major}_0" for major in (14, 13, 12, 11))


@dataclass(frozen=True, slots=True)
class Target:
    """A system ("linux", "macos"), a machine as `uname -m` says it, and a Python ("3.11")."""

    system: str
    machine: str
    python: str

    @classmethod
    def of(cls, profile: DeviceProfile, python: str) -> Target:
        """Return the target for a profile. Raises UsageError, GateError (Windows)."""
        if python not in PYTHONS:
            raise UsageError(
                f"no bundle can be made for Python {python}",
                hint=f"wheels are pinned for Python {', '.join(PYTHONS)}",
            )
        return cls(_system(profile), profile.machine, python)

    @property
    def python_tag(self) -> str:
        """Return the tag of CPython in wheel names: `cp311`."""
        return "cp" + self.python.replace(".", "")

    @property
    def platform_tags(self) -> tuple[str, ...]:
        """Return the platform tags that a wheel for this target may have, best first."""
        prefixes = _MACOS if self.system == "macos" else tuple(f"manylinux{v}" for v in _MANYLINUX)
        return tuple(f"{prefix}_{self.machine}" for prefix in prefixes)

    @property
    def engines(self) -> tuple[str, ...]:
        """Return the engines that have wheels there."""
        # Linking llama.cpp for macOS needs Apple's SDK, which only Macs may hold.
        return ("onnx",) if self.system == "macos" else ("gguf", "onnx")

    def lock_file(self, folder: Path) -> Path:
        """Return the path of this target's lock in `folder`. Raises GateError if there is none."""
        path = folder / self.lock_name
        if not path.is_file():
            raise GateError(
                f"no wheels are pinned for {self.system} on {self.machine}, Python {self.python}",
                hint="bundles can be made for Linux on aarch64 and x86_64, and macOS on arm64",
            )
        return path

    @property
    def lock_name(self) -> str:
        """Return the name of this target's lock file."""
        return f"{self.system}-{self.machine}-{self.python_tag}.txt"


def engines_for(profile: DeviceProfile, target: Target, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the engines of a bundle: those asked for, else all that the device can have.

    Raises GateError with the reason for the first engine that it cannot have.
    """
    possible = tuple(engine for engine in profile.engines if engine in target.engines)
    for engine in asked:
        if engine in possible:
            continue
        why = "linking llama.cpp for macOS needs Apple's SDK; ONNX needs none"
        if target.system != "macos" or engine != "gguf":
            why = f"its engines are: {', '.join(profile.engines) or 'none'}"
        if engine == "torch":
            why = "no bundle brings torch; convert the checkpoint to gguf or onnx"
        raise GateError(f"{profile.name} cannot run {engine} artifacts from a bundle: {why}")
    return tuple(engine for engine in possible if not asked or engine in asked)


def default_python(profile: DeviceProfile) -> str:
    """Return the first Python of the profile that wheels are pinned for, else the oldest."""
    spoken = [re.sub(r"^cp3", "3.", tag) for tag in profile.python_tags]
    return next((python for python in spoken if python in PYTHONS), PYTHONS[0])


def _system(profile: DeviceProfile) -> str:
    if any(tag.startswith("win") for tag in profile.platform_tags):
        raise GateError(
            f"{profile.name} runs Windows, for which no bundle can be made: the installer switches "
            "versions by symbolic links",
            hint="there, install from a wheelhouse: pip install --no-index --find-links",
        )
    return "macos" if any(tag.startswith("macosx") for tag in profile.platform_tags) else "linux"
