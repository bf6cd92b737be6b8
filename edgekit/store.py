"""Where everything that a user owns lives: one folder, `EDGEKIT_HOME`.

models/      checkpoints, as `edgekit pull` left them
artifacts/   converted models
chats/       conversations
cache/       what can be made again: downloads, reference logits, measurements
"""

from __future__ import annotations

import os
import re
import sys
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
    """Return the folder of an artifact given by path, or by its name in the store.

    Raises InputError that lists what the store holds.
    """
    return _find(name_or_path, artifacts(), "edgekit.json", "artifact", "edgekit convert")


def find_checkpoint(name_or_path: str) -> Path:
    """Return the folder of a checkpoint given by path, or by its name in the store.

    Raises InputError that lists what the store holds.
    """
    return _find(name_or_path, models(), "config.json", "checkpoint", "edgekit pull")


def _find(name_or_path: str, folder: Path, mark: str, kind: str, maker: str) -> Path:
    path = Path(name_or_path).expanduser()
    if (path / mark).is_file():
        return path
    if path.name == name_or_path and (folder / name_or_path / mark).is_file():
        return folder / name_or_path
    if path.exists():
        raise InputError(f"{path} holds no {mark}, so it is no {kind}", hint=f"see {maker} --help")
    held = sorted(p.parent.name for p in folder.glob(f"[!.]*/{mark}"))
    known = f"the store holds: {', '.join(held)}" if held else f"make one with {maker}"
    raise InputError(f"there is no {kind} '{name_or_path}'", hint=known)
