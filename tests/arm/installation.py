"""Judges an installation without the installer's own code: what is on the disk, hash by hash.

Standard library only: it also runs inside the virtual machine. It knows the layout that was
promised: two links, versions, and in each version the list of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

UNLISTED = ("installed.json", "bin/python")  # the list itself, and a link out of the version


def faults(prefix: Path) -> list[str]:
    """Return all that is wrong with what `current` and `previous` point to; [] is sound."""
    found: list[str] = []
    for link in ("current", "previous"):
        path = prefix / link
        if path.is_symlink():
            found += [f"{link}: {fault}" for fault in _version_faults(prefix, path.readlink())]
        elif path.exists():
            found.append(f"{link}: is no link")
    return found


def _version_faults(prefix: Path, link: Path) -> list[str]:
    target = link.as_posix()
    if not target.startswith("versions/") or not (prefix / target).is_dir():
        return [f"points to {target!r}, which is not there"]
    version = prefix / target
    try:
        listed = json.loads((version / "installed.json").read_bytes())["files"]
    except (OSError, ValueError, KeyError) as error:
        return [f"no list of files: {error}"]
    expected = {item["path"]: (item["bytes"], item["sha256"]) for item in listed}
    there = {path for path in _files(version) if path not in UNLISTED}
    found = [f"{path} is missing" for path in sorted(expected.keys() - there)]
    found += [f"{path} does not belong there" for path in sorted(there - expected.keys())]
    for path in sorted(there & expected.keys()):
        data = (version / path).read_bytes()
        if (len(data), hashlib.sha256(data).hexdigest()) != expected[path]:
            found.append(f"{path} is damaged")
    if version.name.split("-")[0] != _sha256(version / "bundle.json")[:16]:
        found.append(f"{version.name} is not the hash of its bundle.json")
    return found


def _files(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, folders, names in os.walk(folder)
        for name in (*names, *(n for n in folders if Path(parent, n).is_symlink()))
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
