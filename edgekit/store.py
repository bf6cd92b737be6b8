"""Where everything that a user owns lives: one folder, `EDGEKIT_HOME`.

models/      checkpoints, as `edgekit pull` left them
artifacts/   converted models
chats/       conversations
cache/       what can be made again: downloads, reference logits, measurements

A device's install brings artifacts of its own, which belong to it and are never written to.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import InputError


def home() -> Path:
    """Return the folder of everything: `EDGEKIT_HOME`, or the platform's user-data folder."""
    if chosen := os.environ.get("EDGEKIT_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edgekit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "edgekit"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgekit"


def models() -> Path:
    """Return the folder of checkpoints."""
    return home() / "models"


def artifacts() -> Path:
    """Return the folder of converted models."""
    return home() / "artifacts"


def installed_artifacts() -> Path:
    """Return the folder of the artifacts that an install from a bundle brings; it may not exist."""
    return Path(sys.prefix) / "share" / "edgekit" / "artifacts"


def list_artifacts() -> list[Path]:
    """Return the folder of every artifact by name, those in the store and those installed.

    One in the store hides an installed one of the same name, as `find_artifact` finds it.
    """
    return sorted(
        _held("edgekit.json", [artifacts(), installed_artifacts()]).values(), key=_by_name
    )


def default_artifact() -> Path | None:
    """Return the artifact to chat with if none is named, or None if there is none.

    It is the newest in the store that is for chats; else the one that the installed bundle names
    first.
    """
    held = _held("edgekit.json", [artifacts()]).values()
    newest = sorted(held, key=lambda path: (path / "edgekit.json").stat().st_mtime, reverse=True)
    if chosen := next(filter(_is_for_chats, newest), None):
        return chosen
    installed = _held("edgekit.json", [installed_artifacts()])
    names = [*_bundled_names(), *sorted(installed)]
    return next((installed[name] for name in names if name in installed), None)


def _is_for_chats(folder: Path) -> bool:
    """Return whether a manifest names no other task; of a damaged one, whoever opens it tells."""
    try:
        return json.loads((folder / "edgekit.json").read_bytes()).get("task") is None
    except (OSError, ValueError, AttributeError, RecursionError):
        return True


def _bundled_names() -> list[str]:
    """Return the names of the artifacts in the order of the installed bundle.json, if it is one."""
    try:
        named = json.loads((Path(sys.prefix) / "bundle.json").read_bytes())["artifacts"]
        return [str(path).removeprefix("artifacts/") for path in named]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def chats() -> Path:
    """Return the folder of conversations."""
    return home() / "chats"


def cache() -> Path:
    """Return the folder of what can be made again."""
    return home() / "cache"


def safe_name(text: str) -> str:
    """Return `text` as one folder name: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"


def find_artifact(name_or_path: str) -> Path:
    """Return the folder of an artifact given by path, by its name in the store, or installed.

    Raises InputError that lists what there is.
    """
    folders = [artifacts(), installed_artifacts()]
    return _find(name_or_path, folders, "edgekit.json", "artifact", "edgekit convert")


def find_checkpoint(name_or_path: str) -> Path:
    """Return the folder of a checkpoint given by path, or by its name in the store.

    Raises InputError that lists what the store holds.
    """
    return _find(name_or_path, [models()], "config.json", "checkpoint", "edgekit pull")


def _find(name_or_path: str, folders: Sequence[Path], mark: str, kind: str, maker: str) -> Path:
    path = Path(name_or_path).expanduser()
    if (path / mark).is_file():
        return path
    held = _held(mark, folders)
    if name_or_path in held:
        return held[name_or_path]
    if path.exists():
        raise InputError(f"{path} holds no {mark}, so it is no {kind}", hint=f"see {maker} --help")
    known = f"the store holds: {', '.join(sorted(held))}" if held else f"make one with {maker}"
    raise InputError(f"there is no {kind} '{name_or_path}'", hint=known)


def _held(mark: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Return what the folders hold, by name; the first folder that has a name decides."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob(f"[!.]*/{mark}"):
            found.setdefault(path.parent.name, path.parent)
    return found


def _by_name(path: Path) -> str:
    return path.name
