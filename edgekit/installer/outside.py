"""What an installation writes outside its folder, on request: a systemd unit, a desktop entry.

Each file is noted in outside.json before it is written, so that an uninstall finds it whatever
happened in between; it removes a file only if our first line is in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .disk import FILE_MODE, make_folders, remove_file, remove_if_empty, sync_path, write_atomically
from .errors import BundleError, disk_errors
from .manifest import Manifest
from .prefix import Prefix

UNIT_NAME = "edgekit-verify.service"
ENTRY_NAME = "edgekit.desktop"
_MARK = "# written by the edgekit installer"
# `verify` hashes in pieces of 1 MiB; an interpreter and the lists of 3,000 files take the rest.
_VERIFY_MEMORY = "256M"
_HARDENED = (
    "NoNewPrivileges=yes",
    "RestrictAddressFamilies=AF_UNIX",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallFilter=@system-service",
    "SystemCallArchitectures=native",
    f"MemoryMax={_VERIFY_MEMORY}",
    "Nice=10",
    "IOSchedulingClass=idle",
)
# A user's own service manager has not the right to do these, and would not start the unit.
_HARDENED_FOR_ROOT = (
    "PrivateNetwork=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "CapabilityBoundingSet=CAP_DAC_READ_SEARCH",
)


@dataclass(frozen=True)
class Wishes:
    """What is wanted, and where: a folder of None is the system's usual one for this user."""

    systemd: bool = False
    desktop: bool = False
    systemd_folder: Path | None = None
    desktop_folder: Path | None = None


def write_outside(prefix: Prefix, manifest: Manifest, wishes: Wishes) -> list[str]:
    """Write what is wanted; return the paths."""
    written = []
    if wishes.systemd:
        folder = wishes.systemd_folder or _systemd_folder()
        written.append(_write(prefix, folder / UNIT_NAME, unit(prefix)))
    if wishes.desktop:
        folder = wishes.desktop_folder or _desktop_folder()
        written.append(_write(prefix, folder / ENTRY_NAME, entry(prefix, manifest)))
    return written


def unit(prefix: Prefix) -> str:
    """Return a unit that checks the installation at boot.

    There is no server to run, so this is what a service can do for a chat: say before somebody
    needs it that a card has gone bad. It reads the folder, writes nothing and has no network.
    """
    program = _quoted(str(prefix.path / "bin" / "edgekit-device"))
    lines = [
        "[Unit]",
        "Description=Check the files of edgekit",
        f"ConditionPathExists={_escaped(str(prefix.path / 'current'))}",
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={program} verify",
        *_HARDENED,
        *(_HARDENED_FOR_ROOT if os.geteuid() == 0 else ()),
        "",
        "[Install]",
        "WantedBy=" + ("multi-user.target" if os.geteuid() == 0 else "default.target"),
    ]
    return "\n".join(lines) + "\n"


def entry(prefix: Prefix, manifest: Manifest) -> str:
    """Return a desktop entry that opens the chat in a terminal."""
    program = _quoted(str(prefix.path / "bin" / "edgekit")).replace("\\", "\\\\")
    lines = [
        "[Desktop Entry]",
        "Type=Application",
        "Name=edgekit chat",
        f"Comment=Talk to {manifest.name} on this machine, with no network",
        f"Exec={program} chat",
        "Terminal=true",
        "Categories=Utility;",
    ]
    return "\n".join(lines) + "\n"


def remember_folders(prefix: Prefix, made: list[Path]) -> None:
    """Note the folders that were made for the prefix, so that an uninstall takes them away."""
    if made:
        noted = _read(prefix)
        noted["folders"] = sorted({*noted["folders"], *map(str, made)})
        _store(prefix, noted)


def made_folders(prefix: Prefix) -> list[Path]:
    """Return the folders that were made for the prefix, outermost first."""
    return [Path(path) for path in _read(prefix)["folders"]]


def forget_outside(prefix: Prefix) -> list[str]:
    """Remove what was written outside; return the paths that were removed."""
    removed = []
    for path in map(Path, _read(prefix)["files"]):
        if _is_ours(path):
            _remove_enabling(path)
            remove_file(path)
            sync_path(path.parent)
            removed.append(str(path))
    return removed


def _remove_enabling(path: Path) -> None:
    """Remove the links that `systemctl enable` made to a unit."""
    if path.name == UNIT_NAME:
        for folder in path.parent.glob("*.wants"):
            if remove_file(folder / UNIT_NAME):
                remove_if_empty(folder)


def _write(prefix: Prefix, path: Path, text: str) -> str:
    if os.path.lexists(path) and not _is_ours(path):
        raise BundleError(
            f"{path} is there and was not written by this installer",
            hint="remove it, or install without --systemd and --desktop; the rest is installed",
        )
    with disk_errors(f"{path} cannot be written"):
        noted = _read(prefix)
        noted["files"] = sorted({*noted["files"], str(path)})
        _store(prefix, noted)
        make_folders(path.parent)
        write_atomically(path, f"{_MARK}\n{text}".encode(), FILE_MODE)
    return str(path)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MARK)) == _MARK.encode()
    except OSError:
        return False


def _read(prefix: Prefix) -> dict[str, list[str]]:
    try:
        values: Any = json.loads(prefix.outside.read_bytes())
        return {key: [str(path) for path in values[key]] for key in ("files", "folders")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"files": [], "folders": []}


def _store(prefix: Prefix, noted: dict[str, list[str]]) -> None:
    data = json.dumps(noted, indent=2, sort_keys=True) + "\n"
    write_atomically(prefix.outside, data.encode())


def _systemd_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    return _config_home() / "systemd" / "user"


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _desktop_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/usr/local/share/applications")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "applications"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Return a program's path as systemd and desktop entries read it."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
