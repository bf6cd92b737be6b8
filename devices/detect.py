"""What this machine is: cores, memory, processor features and measured read bandwidth."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of the machine that runs this code. Memory is what this process may really use."""

    architecture: str
    processor: str
    cores: int
    threads: int
    memory_bytes: int
    features: tuple[str, ...]


def describe() -> Machine:
    """Return the facts of this machine. Unknown memory is 0; unknown features are empty."""
    processor, features = _processor()
    return Machine(
        architecture=platform.machine(),
        processor=processor,
        cores=physical_cores(),
        threads=_usable_threads(),
        memory_bytes=memory_bytes(),
        features=features,
    )


def physical_cores() -> int:
    """Return the number of physical cores this process may use, at least 1.

    Two hardware threads of one core share the vector units that decoding keeps busy, so an
    engine that uses both gains nothing and waits at more barriers.
    """
    usable = _usable_cpus()
    siblings = {_sibling_list(cpu) for cpu in usable}
    return max(1, min(len(siblings), _cpu_quota()))


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its control group's limit."""
    limits = [_machine_memory_bytes()]
    for text in _control_group_values("memory", "memory.max", "memory.limit_in_bytes"):
        if text.isdigit():
            limits.append(int(text))
    return min(limit for limit in limits if limit > 0) if any(limits) else 0


def read_bandwidth_bytes_per_s(megabytes: int = 256, seconds: float = 0.5) -> float:
    """Return the measured rate at which `threads` of this process read memory, in bytes/s.

    Sums 64-bit integers of a buffer larger than any cache, one slice per physical core, and
    takes the best pass within `seconds`: the roofline of a decoder that reads all its weights
    for every token (Williams et al. 2009).
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    cores = physical_cores()
    words = np.ones(megabytes * 125_000, dtype=np.int64)
    slices = np.array_split(words, cores)
    best_s = float("inf")
    with ThreadPoolExecutor(cores) as pool:
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline or best_s == float("inf"):
            start = time.perf_counter()
            list(pool.map(np.sum, slices))
            best_s = min(best_s, time.perf_counter() - start)
    return words.nbytes / best_s


def _usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _usable_threads() -> int:
    return max(1, min(len(_usable_cpus()), _cpu_quota()))


def _sibling_list(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return _read(path).strip() or str(cpu)


def _cpu_quota() -> int:
    """Return how many processors the control group grants, rounded up; many if unlimited."""
    granted = 1 << 16
    for text in _control_group_values("cpu", "cpu.max", ""):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            granted = min(granted, max(1, -(-int(quota) // int(period))))
    for quota, period in zip(
        _control_group_values("cpu", "", "cpu.cfs_quota_us"),
        _control_group_values("cpu", "", "cpu.cfs_period_us"),
        strict=False,
    ):
        if quota.isdigit() and period.isdigit() and int(period):
            granted = min(granted, max(1, -(-int(quota) // int(period))))
    return granted


def _control_group_values(controller: str, unified: str, legacy: str) -> list[str]:
    """Return a file's content in this process's control group and in all that hold it.

    `unified` is the file's name in version 2, `legacy` in version 1; "" asks for neither. A limit
    of a group holds for the groups in it, so the smallest counts (cgroups(7)).
    """
    found = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        name = (
            unified if not controllers else legacy if controller in controllers.split(",") else ""
        )
        if not name or ".." in group:
            continue
        root = CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS
        folder = root / group.strip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root) and (text := _read(place / name).strip()):
                found.append(text)
    return found


def _machine_memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def _processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and its feature flags, from /proc/cpuinfo where it exists."""
    if sys.platform != "linux":
        return platform.processor() or platform.machine(), ()
    facts: dict[str, str] = {}
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or facts.get("Model") or platform.machine()
    features = facts.get("flags") or facts.get("Features") or ""
    return name, tuple(features.split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
