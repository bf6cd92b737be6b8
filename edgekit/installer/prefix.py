"""The folder that holds the installed versions: its names, its two links, and how they switch.

    versions/<id>/   current -> versions/<id>   previous -> versions/<id>
    bin/  trusted.json  outside.json  install.lock

Two links cannot be switched in one step, so switching.json says first what both shall be; the
next run finishes what a killed one began. At every moment `current` is one whole version.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .disk import (
    point_link,
    remove_file,
    remove_tree,
    sync_path,
    write_atomically,
)
from .errors import BundleError, disk_errors

STAGING = ".staging-"
REMOVING = ".removing-"
# A second copy of the same bundle, made because the first was damaged, is called <id>-1.
_VERSION = re.compile(r"[0-9a-f]{16}(-[0-9]{1,3})?")


def default_prefix() -> Path:
    """Return /opt/edgekit for root and ~/.local/opt/edgekit for everybody else."""
    if os.geteuid() == 0:
        return Path("/opt/edgekit")
    return Path.home() / ".local" / "opt" / "edgekit"


@dataclass(frozen=True)
class Prefix:
    """An installation's folder, which need not exist yet."""

    path: Path

    @property
    def versions(self) -> Path:
        """Return the folder of the versions."""
        return self.path / "versions"

    @property
    def lock(self) -> Path:
        """Return the lock that whoever changes this folder holds."""
        return self.path / "install.lock"

    @property
    def journal(self) -> Path:
        """Return the file that says what both links shall become."""
        return self.path / "switching.json"

    @property
    def marker(self) -> Path:
        """Return the file that says that an uninstall has begun."""
        return self.path / "uninstalling"

    @property
    def outside(self) -> Path:
        """Return the list of what was written outside, and of the folders made for the prefix."""
        return self.path / "outside.json"

    def version(self, name: str) -> Path:
        """Return the folder of a version."""
        return self.versions / name

    def staging(self, name: str) -> Path:
        """Return the folder in which a version is made."""
        return self.versions / f"{STAGING}{name}"

    def linked(self, link: str) -> str:
        """Return the version that `current` or `previous` points to; "" without one."""
        try:
            target = str((self.path / link).readlink())
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise BundleError(
                f"{self.path / link} should be a link to a version, and is something else",
                hint="choose another folder with --prefix",
            ) from error
        folder, _, name = target.rpartition("/")
        if folder != "versions" or not _VERSION.fullmatch(name):
            raise BundleError(f"{self.path / link} points to {target!r:.200}, which is no version")
        return name

    def names(self) -> list[str]:
        """Return the finished versions, whether linked or not."""
        return sorted(n for n in _listed(self.versions) if _VERSION.fullmatch(n))

    def leftovers(self) -> list[str]:
        """Return what stopped runs left: half-made and half-removed versions."""
        return sorted(n for n in _listed(self.versions) if n.startswith((STAGING, REMOVING)))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def switch(prefix: Prefix, current: str, previous: str, command: str) -> None:
    """Make `current` and `previous` ("" for none) what the links point to. Needs the lock.

    `command` is who wants it: see Recovered.
    """
    values = {"current": current, "previous": previous, "command": command}
    write_atomically(prefix.journal, (json.dumps(values) + "\n").encode())
    _point(prefix, current, previous)


def _point(prefix: Prefix, current: str, previous: str) -> None:
    if previous:
        point_link(prefix.path / "previous", f"versions/{previous}")
    else:
        remove_file(prefix.path / "previous")
    point_link(prefix.path / "current", f"versions/{current}")
    with disk_errors(f"{prefix.path} cannot be written"):
        remove_file(prefix.journal)
        sync_path(prefix.path)


@dataclass(frozen=True)
class Recovered:
    """What a run found of the one before: half-made folders, a switch (of which command)."""

    leftovers: bool
    switched: str

    def __bool__(self) -> bool:
        return self.leftovers or bool(self.switched)


def recover(prefix: Prefix, keep_staging: str = "") -> Recovered:
    """Finish a switch that was stopped, and sweep what stopped runs left. Needs the lock.

    The staging folder of the version `keep_staging` stays, to be resumed.
    """
    switched = _finish_switch(prefix)
    leftovers = prefix.leftovers()
    for name in leftovers:
        if name != f"{STAGING}{keep_staging}":
            remove_tree(prefix.versions / name)
    for folder in (prefix.path, prefix.path / "bin"):
        for name in _listed(folder):
            if re.fullmatch(r"\..+\.new|\.link-probe", name):
                remove_file(folder / name)
    return Recovered(bool(leftovers), switched)


def _finish_switch(prefix: Prefix) -> str:
    """Finish a switch that was stopped; return the command that began it, or ""."""
    try:
        values = json.loads(prefix.journal.read_bytes())
        current, previous = values["current"], values["previous"]
        command = str(values["command"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError, OSError):
        current = previous = command = ""
    known = prefix.names()
    if current in known and (previous in known or not previous):
        _point(prefix, current, previous)
    else:
        remove_file(prefix.journal)
    return command


def remove_version(prefix: Prefix, name: str) -> None:
    """Remove a version that no link points to; at no time does half of it have its name."""
    leaving = prefix.versions / f"{REMOVING}{name}"
    remove_tree(leaving)
    with disk_errors(f"{prefix.version(name)} cannot be removed"):
        os.rename(prefix.version(name), leaving)
        sync_path(prefix.versions)
    remove_tree(leaving)


def prune(prefix: Prefix) -> list[str]:
    """Remove every version but the current and the previous one; return their names."""
    kept = {prefix.linked("current"), prefix.linked("previous")}
    removed = [name for name in prefix.names() if name not in kept]
    for name in removed:
        remove_version(prefix, name)
    return removed
