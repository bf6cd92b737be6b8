"""Linux control groups of versions 1 and 2: make one, set its limits, put a process in, remove it.

A new group lies below the caller's own group, so whatever limits hold here hold there as well.
Knows nothing of devices or models, and never moves a process that its caller did not start.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CONTROLLERS = ("memory", "cpu", "cpuset")
# Ten milliseconds: with the usual 100 a process is stopped for so long that every token shows it.
PERIOD_US = 10_000
LEAST_QUOTA_US = 1_000  # the kernel refuses less
REMOVE_WITHIN_S = 5.0
_PREFIX = "edgekit-limits-"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of the control group file system in which a controller's groups can be made."""

    folder: Path
    version: int


@dataclass(slots=True)
class ControlGroup:
    """The groups of one process, one per controller (in version 2 they are the same folder).

    `missing` says for each controller that cannot be used why. Setters raise OSError.
    """

    groups: dict[str, Place] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def limit_memory(self, limit_bytes: int) -> None:
        """Let the processes have `limit_bytes`, page cache of what they read included; no swap."""
        place = self.groups["memory"]
        if place.version == 2:
            _write(place.folder / "memory.max", limit_bytes)
            with suppress(OSError):  # a kernel without swap has no such file
                _write(place.folder / "memory.swap.max", 0)
            return
        _write(place.folder / "memory.limit_in_bytes", limit_bytes)
        with suppress(OSError):
            _write(place.folder / "memory.memsw.limit_in_bytes", limit_bytes)

    def limit_processors(self, processors: list[int]) -> None:
        """Let the processes run on `processors` only, by number."""
        folder = self.groups["cpuset"].folder
        if self.groups["cpuset"].version == 1:  # empty in a new group, and then it takes nobody
            _write(folder / "cpuset.mems", _read(folder.parent / "cpuset.effective_mems"))
        _write(folder / "cpuset.cpus", ",".join(map(str, processors)))

    def limit_share(self, share: float) -> None:
        """Let the processes have `share` seconds of processor time a second, all together."""
        place = self.groups["cpu"]
        period_us = max(PERIOD_US, round(LEAST_QUOTA_US / share))
        quota_us = round(share * period_us)
        if place.version == 2:
            _write(place.folder / "cpu.max", f"{quota_us} {period_us}")
            return
        _write(place.folder / "cpu.cfs_period_us", period_us)
        _write(place.folder / "cpu.cfs_quota_us", quota_us)

    def add(self, pid: int) -> None:
        """Put the process `pid` into every group; those that refuse it go to `missing`."""
        for controller, place in list(self.groups.items()):
            try:
                _write(place.folder / "cgroup.procs", pid)
            except OSError as error:
                self.missing[controller] = f"{place.folder}: {error.strerror}"
                self.groups.pop(controller)
                if place not in self.groups.values():
                    _remove(place.folder)

    @property
    def peak_memory_bytes(self) -> int:
        """Return the most that was charged to the memory group, 0 where it is not known."""
        place = self.groups.get("memory")
        if place is None:
            return 0
        name = "memory.peak" if place.version == 2 else "memory.max_usage_in_bytes"
        text = _read(place.folder / name)
        return int(text) if text.isdigit() else 0

    @property
    def memory_kills(self) -> int:
        """Return how many processes the kernel has killed for the memory limit."""
        place = self.groups.get("memory")
        if place is None:
            return 0
        name = "memory.events" if place.version == 2 else "memory.oom_control"
        pairs = (line.split() for line in _read(place.folder / name).splitlines())
        return next((int(pair[1]) for pair in pairs if pair[0] == "oom_kill"), 0)

    def remove(self) -> None:
        """Kill what is left inside and remove the groups. Safe to call twice."""
        for folder in self._folders():
            _remove(folder)
        self.groups.clear()

    def _folders(self) -> Iterator[Path]:
        yield from dict.fromkeys(place.folder for place in self.groups.values())


def make(controllers: tuple[str, ...] = CONTROLLERS) -> ControlGroup:
    """Return new, empty groups for `controllers`; what cannot be made is in `missing`."""
    places, group = find(), ControlGroup()
    name = f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{time.monotonic_ns()}"
    for controller in controllers:
        place = places.get(controller)
        if place is None:
            group.missing[controller] = "this system has no such controller"
            continue
        try:
            group.groups[controller] = Place(_make_folder(place, name, controller), place.version)
        except OSError as error:
            group.missing[controller] = f"{place.folder}: {error.strerror}"
    return group


def sweep() -> int:
    """Remove the groups that killed processes have left behind; return how many.

    A group's name has its maker's process id and start time, so one in use is never touched.
    """
    removed = 0
    roots = {mount for mount, _, _ in _mounts(_read(Path("/proc/self/mountinfo")))}
    for root in roots:
        for parent, names, _ in os.walk(root, topdown=False):
            for name in names:
                if name.startswith(_PREFIX) and not _maker_lives(name):
                    with suppress(OSError):
                        _remove(Path(parent) / name)
                        removed += 1
    return removed


def find(proc: Path = Path("/proc/self")) -> dict[str, Place]:
    """Return where groups for each controller can be tried; see cgroups(7) for the two files."""
    own = _own_groups(_read(proc / "cgroup"))
    places: dict[str, Place] = {}
    for mount, root, controllers in _mounts(_read(proc / "mountinfo")):
        if not controllers:
            folder = _below(mount, root, own.get("", "/"))
            places |= {
                name: Place(parent, 2)
                for name in CONTROLLERS
                if name not in places and (parent := _parent_with(folder, mount, name)) is not None
            }
            continue
        for name in controllers & set(CONTROLLERS):
            places[name] = Place(_below(mount, root, own.get(name, "/")), 1)
    return places


def _mounts(mountinfo: str) -> list[tuple[Path, str, set[str]]]:
    """Return mount point, root and controllers of each mount; version 2 names no controllers."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), [*right.split(), "", "", ""][:3]
        if kind in ("cgroup", "cgroup2"):
            controllers = set(options.split(",")) if kind == "cgroup" else set()
            found.append((Path(fields[4]), fields[3], controllers))
    return found


def _own_groups(text: str) -> dict[str, str]:
    """Return this process's path for each controller of version 1, and for version 2 under ""."""
    own: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    return own


def _below(mount: Path, root: str, path: str) -> Path:
    """Return the folder of group `path` where the mount shows the hierarchy from `root` on."""
    inside = os.path.relpath(path, root)
    return mount if inside.startswith("..") else mount / inside


def _parent_with(own: Path, mount: Path, controller: str) -> Path | None:
    """Return the group of version 2 in which a new one has `controller`.

    A group with processes cannot hand controllers down (only the root can), so a new group
    becomes a child of the caller's own group, or else a sibling of it.
    """
    for folder in (own, own.parent):
        if folder != mount and mount not in folder.parents:
            continue
        if controller in _read(folder / "cgroup.subtree_control").split():
            return folder
        if controller in _read(folder / "cgroup.controllers").split():
            with suppress(OSError):
                _write(folder / "cgroup.subtree_control", f"+{controller}")
                return folder
    return None


def _make_folder(place: Place, name: str, controller: str) -> Path:
    folder = place.folder / name
    with suppress(FileExistsError):  # made for another controller of the same hierarchy
        folder.mkdir()
    needed = {"memory": ("memory.max", "memory.limit_in_bytes"), "cpu": ("cpu.max", "cpu.shares")}
    if not any((folder / file).exists() for file in needed.get(controller, ("cpuset.cpus",))):
        folder.rmdir()
        raise OSError(0, f"a new group has no {controller} files")
    return folder


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + REMOVE_WITHIN_S
    while folder.exists():
        for pid in _read(folder / "cgroup.procs").split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError as error:  # busy until the last killed process is gone
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _maker_lives(name: str) -> bool:
    pid, _, rest = name.removeprefix(_PREFIX).partition("-")
    start, _, _ = rest.partition("-")
    return pid.isdigit() and _start_time(int(pid)) == start


def _start_time(pid: int) -> str:
    """Return when a process began, in clock ticks since the boot (proc_pid_stat(5), field 22)."""
    text = _read(Path(f"/proc/{pid}/stat"))
    return text.rpartition(")")[2].split()[19] if text else ""


def _write(path: Path, value: object) -> None:
    path.write_text(f"{value}\n", encoding="ascii")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
