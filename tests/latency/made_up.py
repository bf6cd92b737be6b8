"""Devices and artifacts for tests of the rules: the figures are made up, the classes are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devices.profile import DeviceProfile
from edgekit.artifact import Artifact


def profile(name: str = "a-board", **changes: Any) -> DeviceProfile:
    """Return a board with four cores, 4 GB and 10 GB/s, changed as asked."""
    values: dict[str, Any] = {
        "name": name,
        "title": name.replace("-", " ").title(),
        "machine": "aarch64",
        "platform_tags": ("manylinux_2_28_aarch64",),
        "python_tags": ("cp311",),
        "cpu_features": ("asimd",),
        "least_cpu_features": (),
        "cores": 4,
        "threads": 4,
        "clusters": ("4 x Cortex-A76",),
        "memory_bytes": 4_000_000_000,
        "usable_memory_bytes": 3_600_000_000,
        "memory_bandwidth_gb_per_s": 10.0,
        "compute_gflops": 60.0,
        "glibc": (2, 31),
        "engines": ("gguf", "onnx"),
        "budget_ttft_s": 3.0,
        "budget_tokens_per_s": 8.0,
        "budget_peak_memory_bytes": 2_000_000_000,
    }
    return DeviceProfile(**(values | changes))


def opened(home: Path) -> list[Artifact]:
    """Return the artifacts of a store, by name."""
    return [Artifact.open(path) for path in sorted((home / "artifacts").iterdir())]
