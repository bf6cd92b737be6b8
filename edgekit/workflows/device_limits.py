"""Limits of a small machine, put on a process of a larger one: memory, processors, speed.

Uses control groups where this user may make some, else what a process may do to another of the
same user (`sched_setaffinity`, `prlimit`), and always says which limit is really in force.
A limited process is a rehearsal: its wall times are never those of the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from devices.profile import DeviceProfile
from edgekit.workflows import control_groups
from edgekit.workflows.control_groups import ControlGroup

_CONTROLLERS = {"memory": "memory", "processors": "cpuset", "share": "cpu"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may have; 0 is no limit. `share` is seconds of processor time a second."""

    memory_bytes: int = 0
    processors: int = 0
    share: float = 0.0

    @property
    def controllers(self) -> tuple[str, ...]:
        """Return the controllers that these limits need."""
        wanted = (("memory", self.memory_bytes), ("cpuset", self.processors), ("cpu", self.share))
        return tuple(controller for controller, value in wanted if value)


@dataclass(slots=True)
class Limited:
    """Limits that wait for their process. `enforced` and `not_enforced` fill up as they apply.

    Both go from a limit's name (memory, processors, share) to how it is enforced, or why not.
    """

    limits: Limits
    group: ControlGroup
    enforced: dict[str, str] = field(default_factory=dict)
    not_enforced: dict[str, str] = field(default_factory=dict)

    def place(self, pid: int) -> None:
        """Put the process `pid`, which should not have computed yet, under memory and processors.

        The share comes later, by `slow_down`: starting and loading need not be slow.
        """
        for name in ("memory", "processors"):
            self._apply(name)
        self.group.add(pid)
        for name in [name for name in self.enforced if _CONTROLLERS[name] in self.group.missing]:
            del self.enforced[name]
            self.not_enforced[name] = self.group.missing[_CONTROLLERS[name]]
        if "memory" in self.not_enforced:
            self._private_memory(pid)
        if "processors" in self.not_enforced:
            self._affinity(pid)

    def slow_down(self) -> None:
        """Set the share of processor time from here on."""
        self._apply("share")

    @property
    def killed_for_memory(self) -> bool:
        """Tell whether the kernel has killed a process here because of the memory limit."""
        return self.group.memory_kills > 0

    def _apply(self, name: str) -> None:
        controller = _CONTROLLERS[name]
        if controller not in self.limits.controllers:
            return
        place = self.group.groups.get(controller)
        if place is None:
            self.not_enforced[name] = self.group.missing[controller]
            return
        try:
            self._set(name)
        except OSError as error:
            self.not_enforced[name] = f"{place.folder}: {error.strerror}"
        else:
            self.enforced[name] = f"control group, version {place.version}"

    def _set(self, name: str) -> None:
        match name:
            case "memory":
                self.group.limit_memory(self.limits.memory_bytes)
            case "processors":
                self.group.limit_processors(usable(self.limits.processors))
            case _:
                self.group.limit_share(self.limits.share)

    def _private_memory(self, pid: int) -> None:
        """Limit what the process can allocate; mapped files, such as weights, do not count."""
        import resource

        with suppress(OSError, ValueError, AttributeError):
            limit = (self.limits.memory_bytes, self.limits.memory_bytes)
            resource.prlimit(pid, resource.RLIMIT_DATA, limit)
            self._instead("memory", "RLIMIT_DATA: private memory, not mapped files")

    def _affinity(self, pid: int) -> None:
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(pid, usable(self.limits.processors))
            self._instead("processors", "sched_setaffinity")

    def _instead(self, name: str, how: str) -> None:
        del self.not_enforced[name]
        self.enforced[name] = how


@contextmanager
def limited(limits: Limits) -> Iterator[Limited]:
    """Yield limits to put a process under; what is still inside at the end is killed."""
    control_groups.sweep()
    group = control_groups.make(limits.controllers)
    try:
        yield Limited(limits, group)
    finally:
        group.remove()


def limits_of(profile: DeviceProfile, share: float = 0.0) -> Limits:
    """Return the limits of a device on this machine, which may have fewer processors itself."""
    return Limits(profile.usable_memory_bytes, min(profile.cores, len(usable())), share)


def usable(count: int | None = None) -> list[int]:
    """Return the numbers of the first `count` processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))[:count]
    return list(range(os.cpu_count() or 1))[:count]


def forget_file(path: Path) -> None:
    """Drop a file from the page cache, so that the next reader's group is charged for it.

    Pages belong to the group that first read them: without this, a model that this process has
    hashed a moment ago would be free of charge to the limited one. Does nothing off Linux.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)  # what is not on the disk yet cannot be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
