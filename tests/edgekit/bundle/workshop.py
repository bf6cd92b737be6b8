"""A profile, and a place to build bundles of small wheels with no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devices.profile import DeviceProfile
from edgekit.progress import NoProgress
from edgekit.workflows.bundle.build import BuiltBundle, build
from edgekit.workflows.bundle.lock_files import LockedWheel, write_lock

PROFILE = DeviceProfile(
    name="board",
    title="A board",
    machine="aarch64",
    platform_tags=("manylinux_2_28_aarch64", "manylinux_2_17_aarch64"),
    cpu_features=("asimd", "asimddp"),
    cores=4,
    usable_memory_bytes=4_000_000_000,
    memory_bandwidth_gb_per_s=10.0,
    engines=("gguf", "onnx"),
    clusters=("4 x Cortex-A76",),
    threads=4,
    memory_bytes=8_000_000_000,
    compute_gflops=100.0,
    python_tags=("cp311", "cp313"),
    glibc=(2, 36),
    least_cpu_features=("asimd",),
)


@dataclass(frozen=True)
class Workshop:
    """A folder of locks and one of wheels; `build` makes bundles of them, with no network."""

    folder: Path
    key: Path | None = None

    @property
    def locks(self) -> Path:
        return self.folder / "locks"

    @property
    def wheelhouse(self) -> Path:
        return self.folder / "wheelhouse"

    def write_locks(self, wheels: Sequence[LockedWheel], *names: str) -> None:
        self.locks.mkdir(exist_ok=True)
        for name in names or ("linux-aarch64-cp311",):
            write_lock(self.locks / f"{name}.txt", wheels)

    def build(self, *artifacts: Path, out: Path | None = None, **changes: Any) -> BuiltBundle:
        profile = replace(PROFILE, **changes.pop("profile", {}))
        settings: dict[str, Any] = {
            "python": "3.11",
            "key": self.key,
            "progress": NoProgress(),
            "wheelhouse": self.wheelhouse,
            "locks": self.locks,
        }
        return build(artifacts, profile, out or self.folder / "out", **(settings | changes))
