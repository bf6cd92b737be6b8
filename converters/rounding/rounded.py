"""Rounded: the quantised matrices of a checkpoint, chosen together, and how they were chosen."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.rounding.grids import Blocks, put_together, take_apart
from edgekit.files import write_atomically


@dataclass(frozen=True, slots=True)
class Rounded:
    """What an exporter writes instead of rounding by itself.

    `blocks` by the checkpoint's names of weights; `gains`, float32 [hidden] or [head_dim], of the
    norms that were trained, empty if none was. `facts` says how, as plain JSON for the manifest.
    """

    blocks: Mapping[str, Blocks]
    gains: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write to `path`, atomically; `load` reads it. Raises InputError or GateError."""
        arrays: dict[str, Any] = {}
        table: dict[str, tuple[str, int]] = {}
        for name, blocks in self.blocks.items():
            table[name] = (blocks.grid.name, blocks.codes.shape[1])
            arrays[f"blocks {name}"] = put_together(blocks)
        for name, gains in self.gains.items():
            arrays[f"gains {name}"] = gains
        text = json.dumps({"blocks": table, "facts": dict(self.facts)}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, table=np.frombuffer(text, np.uint8))
        write_atomically(path, buffer.getvalue())


def load_rounded(path: Path) -> Rounded | None:
    """Return what `save` wrote, or None where there is nothing or damage: it is only a cache."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            table = json.loads(arrays["table"].tobytes())
            blocks = {
                name: take_apart(type_name, arrays[f"blocks {name}"], columns)
                for name, (type_name, columns) in table["blocks"].items()
            }
            names = (key.removeprefix("gains ") for key in arrays if key.startswith("gains "))
            gains = {name: arrays[f"gains {name}"] for name in names}
            return Rounded(blocks, gains, table["facts"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
