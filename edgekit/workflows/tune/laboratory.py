"""The laboratory: what a search needs to know of a checkpoint, measured once and kept.

Text, importance, sensitivities and each divergence are kept in the cache, named by all that decides
them: an interrupted search loses the measurement it was at. Divergences are measured on a part of
the calibration text: the certificate, on other texts, is what judges.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import describe
from converters.budget.measure import Measurer
from converters.budget.sensitivity import Sensitivity, measure_sensitivity
from converters.budget.table import TYPES, Table, measure_losses, tabulate
from converters.calibrate import calibrate, calibration_windows
from converters.checkpoint import Checkpoint
from converters.reference import Window, load_model
from edgekit.artifact import Format
from edgekit.files import write_atomically
from edgekit.progress import Progress

CACHE_VERSION = 1
# Spread over the whole text, so that every kind has its share.
SENSITIVITY_WINDOWS, MEASURED_WINDOWS = 32, 16


class Laboratory:
    """Measures one checkpoint on one calibration text, and remembers."""

    def __init__(
        self, checkpoint: Checkpoint, text: Path | None, cache_folder: Path, progress: Progress
    ) -> None:
        """`text` is a file in UTF-8; without one the checkpoint writes its own."""
        self._checkpoint, self._text = checkpoint, text
        self._shape = describe(checkpoint)
        self._cache, self._progress = cache_folder, progress

    @cached_property
    def importance(self) -> Any:
        """Return the importance matrix by which everything is rounded."""
        return calibrate(self._checkpoint, self._text, self._cache / "importance", self._progress)

    def table(self, format_name: Format, seconds_per_weight: Mapping[str, float]) -> Table:
        """Return the table of choices for a format."""
        losses = self._losses(format_name)
        return tabulate(self._shape, format_name, losses, seconds_per_weight)

    def _losses(self, format_name: Format) -> NDArray[np.float64]:
        file = self._file("losses", [format_name, TYPES[format_name]])
        losses: NDArray[np.float64] | None = _load_arrays(file).get("losses")
        if losses is None:
            losses = measure_losses(
                self._checkpoint,
                self._shape,
                format_name,
                self.importance,
                self._sensitivities,
                self._progress,
            )
            _save_arrays(file, {"losses": losses})
        return losses

    def divergence(self, types: Mapping[str, str]) -> float:
        """Return the measured divergence, in nats, with the matrices in `types`; see Measurer."""
        file = self._file("divergence", dict(types))
        known = _number(file)
        if known is None:
            known = self._measurer.divergence(types, self._progress)
            write_atomically(file, json.dumps(known).encode())
        return known

    @cached_property
    def _windows(self) -> list[Window]:
        folder = self._cache / "importance"
        return calibration_windows(self._checkpoint, self._text, folder, self._progress)

    @cached_property
    def _measurer(self) -> Measurer:
        windows = _spread(self._windows, MEASURED_WINDOWS)
        model = load_model(self._checkpoint)
        return Measurer(self._checkpoint, self._shape, model, self.importance, windows)

    @cached_property
    def _sensitivities(self) -> dict[str, Sensitivity]:
        file = self._file("sensitivity", SENSITIVITY_WINDOWS)
        found = _load_sensitivities(file)
        if not found:
            windows = _spread(self._windows, SENSITIVITY_WINDOWS)
            model = load_model(self._checkpoint)
            found = measure_sensitivity(model, self._shape, windows, self._progress)
            _save_sensitivities(file, found)
        return found

    def _file(self, kind: str, facts: object) -> Path:
        text = [window.token_ids for window in self._windows]
        whole = json.dumps([CACHE_VERSION, kind, facts, text, self._checkpoint_digest])
        return self._cache / "tune" / f"{kind}-{hashlib.sha256(whole.encode()).hexdigest()[:32]}"

    @cached_property
    def _checkpoint_digest(self) -> str:
        return self._checkpoint.digest()


def _spread(windows: Sequence[Window], count: int) -> list[Window]:
    count = min(count, len(windows))
    return [windows[number * len(windows) // count] for number in range(count)]


def _number(file: Path) -> float | None:
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, float) else None


def _save_sensitivities(file: Path, found: Mapping[str, Sensitivity]) -> None:
    arrays: dict[str, Any] = {
        f"{field.name} {name}": value
        for name, one in found.items()
        for field in fields(Sensitivity)
        if (value := getattr(one, field.name)) is not None
    }
    _save_arrays(file, arrays)


def _save_arrays(file: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(file, buffer.getvalue())


def _load_arrays(file: Path) -> dict[str, Any]:
    """Return what `_save_arrays` wrote; nothing if it is absent or damaged: it is only a cache."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays}
    except Exception:
        return {}


def _load_sensitivities(file: Path) -> dict[str, Sensitivity]:
    values = _load_arrays(file)
    names = [key.removeprefix("rows ") for key in values if key.startswith("rows ")]
    return {
        name: Sensitivity(
            values[f"columns {name}"], values[f"rows {name}"], values.get(f"looked_up {name}")
        )
        for name in names
    }
