"""A file of tensors and one JSON document that belongs to them: safetensors, whole or absent.

The document lies in the file's own header, so that no kill can part the two.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.files import disk_errors, fsync_folder, make_folder

if TYPE_CHECKING:
    import torch

KEY = "edgekit"


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], document: Any) -> None:
    """Write `tensors` and the JSON `document` to `path`, atomically. Raises GateError."""
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        with disk_errors(path.parent):
            whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
            _write(whole, temporary, json.dumps(document, allow_nan=False))
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def _write(tensors: dict[str, torch.Tensor], path: Path, document: str) -> None:
    """Write a safetensors file. Raises OSError, which the library hides in an error of its own."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, {KEY: document})
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found.group(1)), str(error), str(path)) from error


def load_document(path: Path) -> Any:
    """Return the document alone, from the file's header; None if the file is absent or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[KEY])
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], Any] | None:
    """Return what `save_tensors` wrote to `path`, on the CPU; None if it is absent or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, document  # noqa: SIM118
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
