"""Whether this machine is what a bundle was made for: one sentence for each thing that is not.

Reads the running interpreter, /proc and the disk; changes nothing.
"""

from __future__ import annotations

import os
import platform
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import LimitError
from .manifest import Manifest
from .narration import format_bytes

_SAME_MACHINE = {"arm64": "aarch64", "amd64": "x86_64"}
_64_BIT = ("aarch64", "x86_64", "riscv64")
# What a disk needs beside the files themselves, and what a system needs to go on.
DISK_MARGIN_BYTES = 16_000_000
PROC = Path("/proc")


def check_machine(manifest: Manifest) -> list[str]:
    """Raise LimitError for what does not fit; return notes on what could not be checked."""
    _check_machine_name(manifest)
    _check_python(manifest)
    _check_glibc(manifest)
    return [*_check_features(manifest), *_check_memory(manifest)]


def check_disk(folder: Path, needed_bytes: int, files: int) -> None:
    """Raise LimitError if the disk that will hold `folder` has too little room."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    state = os.statvfs(existing)
    free_bytes = state.f_bavail * state.f_frsize
    if free_bytes < needed_bytes + DISK_MARGIN_BYTES:
        raise LimitError(
            f"{folder} needs {format_bytes(needed_bytes + DISK_MARGIN_BYTES)} of disk and "
            f"{format_bytes(free_bytes)} are free",
            hint="free some space, or choose a folder on another disk with --prefix",
        )
    # Some file systems (btrfs, FAT) make inodes as they need them and say 0.
    if state.f_files and state.f_favail < files:
        raise LimitError(
            f"{folder} needs {files} files and the disk has room for {state.f_favail}",
            hint="remove some files, or choose a folder on another disk with --prefix",
        )


def interpreter() -> Path:
    """Return the system's Python that runs now, not the link to it in an environment."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return Path(os.path.realpath(base))


def _check_machine_name(manifest: Manifest) -> None:
    wanted = _normal(manifest.machine)
    found = _normal(platform.machine())
    if found != wanted:
        raise LimitError(
            f"the bundle is for {manifest.device} ({wanted}) and this machine is {found}",
            hint="make a bundle for this device: edgekit bundle ... --device",
        )
    bits = 8 * struct.calcsize("P")
    if wanted in _64_BIT and bits != 64:
        raise LimitError(
            f"the bundle needs a 64-bit system and this Python is a {bits}-bit program",
            hint="install the 64-bit version of the system",
        )


def _normal(machine: str) -> str:
    return _SAME_MACHINE.get(machine.lower(), machine.lower())


def _check_python(manifest: Manifest) -> None:
    found = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if found != manifest.python or sys.implementation.name != "cpython":
        raise LimitError(
            f"the bundle is for CPython {manifest.python} and this is "
            f"{platform.python_implementation()} {found}",
            hint=f"run it with python{manifest.python}, or make a bundle with --python {found}",
        )


def _check_glibc(manifest: Manifest) -> None:
    if manifest.glibc == (0, 0):
        return
    wanted = ".".join(map(str, manifest.glibc))
    try:
        found = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, AttributeError, OSError):
        found = ""
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", found)
    if match is None:
        raise LimitError(
            f"the bundle needs glibc {wanted} and this system has another C library",
            hint="musl systems (Alpine) are not supported: use Debian or a relative of it",
        )
    if (int(match[1]), int(match[2])) < manifest.glibc:
        raise LimitError(
            f"the bundle needs glibc {wanted} and this system has {match[1]}.{match[2]}",
            hint="install a newer version of the system",
        )


def _check_features(manifest: Manifest) -> list[str]:
    found = cpu_features()
    if not manifest.cpu_features:
        return []
    if found is None:
        return ["note: the processor's features cannot be read here, so they were not checked"]
    missing = sorted(set(manifest.cpu_features) - found)
    if missing:
        raise LimitError(
            f"the bundle needs a processor with {', '.join(missing)} and this one has not",
            hint="make a bundle for this device: edgekit bundle ... --device",
        )
    return []


def cpu_features() -> set[str] | None:
    """Return the features that every core has, named as in /proc/cpuinfo; None if unknown."""
    try:
        text = (PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set.intersection(*(set(line.split()) for line in lines)) if lines else None


def _check_memory(manifest: Manifest) -> list[str]:
    total_bytes, available_bytes = memory_bytes()
    wanted = manifest.memory_bytes
    if total_bytes and wanted > total_bytes:
        raise LimitError(
            f"the bundle's model needs {format_bytes(wanted)} of memory and this machine has "
            f"{format_bytes(total_bytes)}",
            hint="make a bundle with a smaller model, scheme or context for this device",
        )
    if available_bytes and wanted > available_bytes:
        return [
            f"note: the model needs {format_bytes(wanted)} of memory and "
            f"{format_bytes(available_bytes)} are free now: close other programs before a chat"
        ]
    return []


def memory_bytes(
    limits: Sequence[str] = (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
) -> tuple[int, int]:
    """Return the memory of this machine (or of its container) and what is free; 0 is unknown."""
    try:
        text = (PROC / "meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    found = {key: 1024 * int(value) for key, value in re.findall(r"(\w+):\s*(\d+) kB", text)}
    total_bytes, available_bytes = found.get("MemTotal", 0), found.get("MemAvailable", 0)
    for path in limits:
        try:
            limit = Path(path).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if limit.isdigit() and 0 < int(limit) < total_bytes:
            total_bytes, available_bytes = int(limit), min(available_bytes, int(limit))
    return total_bytes, available_bytes
