"""`this`: the profile of the machine that runs this code, detected and measured now.

Memory is what the machine's or the control group's limit leaves. Bandwidth and arithmetic are
measured with numpy for half a second each; nothing is read from a file or kept.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time

from devices.detect import describe, read_bandwidth_bytes_per_s
from devices.profile import THIS, DeviceProfile
from edgekit.errors import MissingExtraError

GLIBC_TAGS = ((2, 34), (2, 28), (2, 27), (2, 26), (2, 17))
SYSTEM_BYTES = 300_000_000  # what a system without a desktop keeps for itself
# q8_0 in llama.cpp against numpy's float32 product on the same core: 0.9 to 1.1 on Zen 4.
Q8_SHARE_OF_FLOAT32 = 1.0
TORCH_LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate")
_MEASURED = "measured now"


def this_machine() -> DeviceProfile:
    """Return the profile of this machine. Raises MissingExtraError without numpy."""
    machine = describe()
    try:
        bandwidth = read_bandwidth_bytes_per_s() / 1e9
        gflops = compute_gflops(machine.cores)
    except ImportError as error:
        raise MissingExtraError(
            "measuring this machine needs numpy", hint="pip install 'edgekit[device]'"
        ) from error
    memory = machine.memory_bytes or SYSTEM_BYTES
    return DeviceProfile(
        name=THIS,
        title=f"this machine: {machine.processor}",
        machine=machine.architecture,
        platform_tags=platform_tags(),
        cpu_features=machine.features,
        cores=machine.cores,
        usable_memory_bytes=memory - min(SYSTEM_BYTES, memory // 10),
        memory_bandwidth_gb_per_s=round(bandwidth, 2),
        engines=engines(),
        clusters=(f"{machine.cores} x {machine.processor}, {machine.threads} threads",),
        threads=machine.cores,
        memory_bytes=memory,
        compute_gflops=round(gflops, 1),
        python_tags=(f"cp{sys.version_info.major}{sys.version_info.minor}",),
        glibc=glibc(),
        least_cpu_features=(),
        sources={
            "cores": "the system's topology, affinity and control group",
            "clusters": "/proc/cpuinfo",
            "threads": "one for each physical core",
            "cpu_features": "/proc/cpuinfo",
            "memory_bytes": "the system, or the limit of its control group",
            "usable_memory_bytes": "our estimate: a tenth, at most 300 MB, for what else runs",
            "memory_bandwidth_gb_per_s": f"{_MEASURED}: sums of an array larger than the caches",
            "compute_gflops": f"{_MEASURED}: numpy's float32 product, as q8_0 reaches it",
            "glibc": "the system",
            "engines": "edgekit doctor says which work",
        },
    )


def engines() -> tuple[str, ...]:
    """Return the engines for which this machine has a use; that of torch only if it is there."""
    installed = all(importlib.util.find_spec(name) for name in TORCH_LIBRARIES)
    return ("gguf", "onnx", "torch") if installed else ("gguf", "onnx")


def compute_gflops(cores: int, seconds: float = 0.3, size: int = 512) -> float:
    """Return the rate of `cores` cores in 8-bit products, in 10^9 operations a second.

    Measured by processor time, so that other programs and the library's own threads do not count.
    """
    import numpy as np

    left = np.ones((size, size), dtype=np.float32)
    best_s = float("inf")
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or best_s == float("inf"):
        start = time.process_time()
        left @ left
        best_s = min(best_s, max(time.process_time() - start, 1e-6))
    return Q8_SHARE_OF_FLOAT32 * cores * 2 * size**3 / best_s / 1e9


def glibc() -> tuple[int, int]:
    """Return the version of the system's GNU C library, (0, 0) where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = version.split(".")[:2]
        return (int(major), int(minor)) if name == "glibc" else (0, 0)
    except (ValueError, OSError, AttributeError):
        return 0, 0


def platform_tags() -> tuple[str, ...]:
    """Return the platform tags of wheels that this system takes, the newest first."""
    machine, system = platform.machine(), platform.system()
    if system == "Linux":
        here = glibc()
        known = [f"manylinux_{a}_{b}_{machine}" for a, b in GLIBC_TAGS if (a, b) <= here]
        return (*known, f"manylinux2014_{machine}", f"linux_{machine}")
    if system == "Darwin":
        return (f"macosx_{platform.mac_ver()[0].split('.')[0] or '11'}_0_{machine}",)
    return (f"{system.lower()}_{machine.lower()}",)
