"""A file of windows of tokens: so that a text that took long to write is written once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converters.reference import Window
from edgekit.tensors_file import load_tensors, save_tensors


def save_windows(path: Path, windows: Sequence[Window]) -> None:
    """Write `windows` to `path`, atomically. Raises GateError."""
    save_tensors(path, {}, [[window.kind, list(window.token_ids)] for window in windows])


def load_windows(path: Path) -> list[Window] | None:
    """Return the windows in `path`; None if it is absent or damaged."""
    found = load_tensors(path)
    return None if found is None else [Window(kind, tuple(ids)) for kind, ids in found[1]]
