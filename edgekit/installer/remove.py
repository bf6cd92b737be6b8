"""Rollback to the version before, and uninstall.

Both hold the prefix's lock, and both can be stopped at any call and run again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .disk import (
    locked,
    remove_file,
    remove_if_empty,
    remove_tree,
    sync_path,
    write_atomically,
)
from .errors import BundleError, disk_errors
from .installed import check_version
from .narration import Narration
from .outside import forget_outside, made_folders
from .prefix import Prefix, recover, remove_version, switch
from .trust import trusted_keys

_OWN_FILES = ("trusted.json", "switching.json")


def require_installed(prefix: Prefix) -> None:
    """Raise BundleError if nothing was ever installed in this folder."""
    if not prefix.path.is_dir() or not (prefix.versions.is_dir() or prefix.marker.exists()):
        raise BundleError(
            f"edgekit is not installed in {prefix.path}", "name its folder with --prefix"
        )


def rollback(prefix: Prefix, narration: Narration) -> dict[str, Any]:
    """Switch to the previous version, after checking it; the current one becomes the previous.

    Raises BundleError if there is none, or if it is damaged.
    """
    require_installed(prefix)
    with locked(prefix.lock, lambda: narration.say("another installer is at work: waiting")):
        recovered = recover(prefix)
        if recovered:
            narration.say("a run before this one was stopped: what it left is swept")
        current, previous = prefix.linked("current"), prefix.linked("previous")
        if recovered.switched == "rollback":
            # That run had begun to switch, and now it is done: once more would undo it.
            return {"prefix": str(prefix.path), "id": current, "previous": previous or None}
        if not previous:
            raise BundleError(f"{prefix.path} has no previous version to go back to")
        narration.say(f"checking version {previous}")
        checked = check_version(prefix.version(previous), trusted_keys(prefix))
        if checked.faults:
            raise BundleError(
                f"version {previous} is damaged, so it is not switched in: {checked.faults[0]}",
                hint="install its bundle again",
            )
        switch(prefix, previous, current, "rollback")
    return {"prefix": str(prefix.path), "id": previous, "previous": current or None}


def uninstall(prefix: Prefix, narration: Narration) -> dict[str, Any]:
    """Remove every file of the installation, inside its folder and outside.

    The user's own folder (EDGEKIT_HOME) stays and is named. Returns what stayed.
    """
    if not _is_empty(prefix.path):  # an empty folder is what a stopped uninstall leaves at last
        require_installed(prefix)
    with locked(prefix.lock, lambda: narration.say("another installer is at work: waiting")):
        # From here on the small script in bin/ can finish the work without Python.
        write_atomically(prefix.marker, b"")
        recover(prefix)
        made = made_folders(prefix)
        with disk_errors(f"{prefix.path} cannot be removed"):
            outside = forget_outside(prefix)
            _remove_versions(prefix)
            stayed = _remove_rest(prefix, made)
    home = user_home()
    if home.exists():
        narration.say(f"your chats, models and settings stay in {home}")
    for path in stayed:
        narration.say(f"not ours, so it stays: {path}")
    return {
        "prefix": str(prefix.path),
        "removed_outside": outside,
        "stayed": stayed,
        "home": str(home) if home.exists() else None,
    }


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def user_home() -> Path:
    """Return the folder of the user's own data, as edgekit itself finds it."""
    if chosen := os.environ.get("EDGEKIT_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edgekit"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgekit"


def _remove_versions(prefix: Prefix) -> None:
    """Take the links away first, so that nobody starts a version that is half removed."""
    remove_file(prefix.path / "bin" / "edgekit")
    remove_file(prefix.path / "current")
    remove_file(prefix.path / "previous")
    sync_path(prefix.path)
    for name in prefix.names():
        remove_version(prefix, name)


def _remove_rest(prefix: Prefix, made: list[Path]) -> list[str]:
    """Remove the installer's own files, then the folders that are empty; return what stays."""
    for name in prefix.leftovers():
        remove_tree(prefix.versions / name)
    remove_if_empty(prefix.versions)
    for name in _OWN_FILES:
        remove_file(prefix.path / name)
    remove_file(prefix.path / "bin" / "edgekit-device")
    remove_if_empty(prefix.path / "bin")
    remove_file(prefix.lock)
    remove_file(prefix.outside)
    remove_file(prefix.marker)
    stayed = [str(prefix.path / name) for name in sorted(os.listdir(prefix.path))]
    if remove_if_empty(prefix.path):
        sync_path(prefix.path.parent)
        for folder in reversed(made):
            remove_if_empty(folder)
    return stayed
