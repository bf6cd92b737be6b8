"""The table of choices: what each type of a format costs and loses, for each matrix of a model.

Every figure comes from the weights themselves, quantised as the exporter would do it; of large
matrices a sample of rows stands for all. It chooses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from converters import ggml
from converters.architectures import ModelShape, Role, TensorSpec
from converters.budget.allocate import Choice, Options
from converters.budget.sensitivity import Sensitivity
from converters.checkpoint import Checkpoint
from converters.gguf_presets import is_quantisable, legal_type
from converters.importance import Importance, is_weighed
from converters.onnx_quantize import (
    BLOCK,
    dequantise_rows,
    quantise_rows,
    quantise_rows_asymmetric,
)
from converters.recipe import Recipe
from converters.schemes import SCHEMES
from edgekit.artifact import Format
from edgekit.errors import InputError
from edgekit.progress import Progress

Floats = NDArray[np.float32]
# In which a matrix may be stored. bf16 and f32 are left out: f16 loses nothing that shows.
TYPES: dict[Format, tuple[str, ...]] = {
    "gguf": ("q3_k", "iq4_xs", "iq4_nl", "q4_0", "q4_k", "q4_1", "q5_0", "q5_k", "q5_1", "q6_k",
             "q8_0", "f16"),
    "onnx": ("int4", "int4_asymmetric", "int8", "f16"),
}  # fmt: skip
SAMPLE_ROWS = 384
MAX_WORKERS = 8
SCALE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Table:
    """The choices: `options` has a row for each of `specs` and a column for each of `types`."""

    format: Format
    specs: tuple[TensorSpec, ...]
    types: tuple[str, ...]
    options: Options

    def recipe(self, name: str, choice: Choice) -> Recipe:
        """Return the recipe that gives each matrix its chosen type."""
        per_tensor = {
            spec.name: self.types[column] for spec, column in zip(self.specs, choice, strict=True)
        }
        embedding, output = f"{Role.EMBEDDING}.weight", f"{Role.OUTPUT}.weight"
        if self.format == "onnx" and output not in per_tensor:
            per_tensor[output] = per_tensor[embedding]  # one table for both, not two
        return Recipe(name, self.format, self._scheme(choice), "chosen by edgekit tune", per_tensor)

    def choice(self, types: Mapping[str, str]) -> Choice:
        """Return the choice that gives each matrix, by its checkpoint name, the type in `types`.

        Raises KeyError or ValueError for one that the table does not know.
        """
        return np.array([self.types.index(types[spec.name]) for spec in self.specs])

    def _scheme(self, choice: Choice) -> str:
        """Return the scheme of the type that most weights have: what the file is called by."""
        weights: dict[str, int] = {}
        for spec, column in zip(self.specs, choice, strict=True):
            kind = self.types[column]
            weights[kind] = weights.get(kind, 0) + prod(spec.shape)
        most = max(weights, key=lambda kind: weights[kind])
        schemes = SCHEMES[self.format].values()
        return next(s.name for s in schemes if s.tensor_type == most)


def measure_losses(
    checkpoint: Checkpoint,
    shape: ModelShape,
    format_name: Format,
    importance: Importance,
    sensitivities: Mapping[str, Sensitivity],
    progress: Progress,
) -> NDArray[np.float64]:
    """Return what each type of a format loses in each matrix, in nats, [matrices, types].

    Infinite where the shape forbids the type. Raises InputError for a format without a choice, and
    for weights that are not numbers.
    """
    if format_name not in TYPES:
        raise InputError(f"there are no types to choose from in {format_name}")
    types = TYPES[format_name]
    specs = _choosable(shape)

    def row(spec: TensorSpec) -> list[float]:
        counts = importance.of(spec) if is_weighed(spec, shape) else None
        return _losses(checkpoint, spec, types, counts, sensitivities[spec.name])

    losses = []
    with (
        ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool,
        progress.task("trying the types", len(specs), unit="matrices") as advance,
    ):
        for found in pool.map(row, specs):
            losses.append(found)
            advance(1)
    return np.array(losses)


def tabulate(
    shape: ModelShape,
    format_name: Format,
    losses: NDArray[np.float64],
    seconds_per_weight: Mapping[str, float],
) -> Table:
    """Return the table of a model for a format; `losses` as `measure_losses` returns them.

    `seconds_per_weight` says how long a weight of each type takes for one token, 0 where it is
    missing.
    """
    types, specs = TYPES[format_name], _choosable(shape)
    sizes = [[matrix_bytes(kind, spec.shape) for kind in types] for spec in specs]
    counts = np.array([prod(spec.shape) for spec in specs], dtype=np.float64)
    seconds = counts[:, None] * np.array([seconds_per_weight.get(kind, 0.0) for kind in types])
    # An embedding that is only looked up costs no time: one row of it is read.
    seconds *= np.array([[is_weighed(spec, shape)] for spec in specs])
    options = Options(losses, np.array(sizes, dtype=np.float64), seconds)
    return Table(format_name, specs, types, options)


def _choosable(shape: ModelShape) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in shape.tensors() if is_quantisable(spec))


def matrix_bytes(type_name: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a matrix in a type of either format."""
    rows, columns = shape
    blocks = columns // BLOCK
    match type_name:
        case "int4_asymmetric":
            return rows * (columns // 2 + blocks * SCALE_BYTES + -(-blocks // 2))
        case "int4" | "int8":
            return rows * (columns * int(type_name[-1]) // 8 + blocks * SCALE_BYTES)
    return rows * ggml.row_bytes(type_name, columns)


def quantised(type_name: str, weights: Floats, counts: Floats | None) -> Floats:
    """Return `weights`, float32 [rows, columns], as an engine will see them in a type."""
    match type_name:
        case "f16":
            return weights.astype(np.float16).astype(np.float32)
        case "int4":
            return dequantise_rows(*quantise_rows(weights, 4, counts), 4)
        case "int4_asymmetric":
            codes, scales, zero_points = quantise_rows_asymmetric(weights, counts)
            return dequantise_rows(codes, scales, 4, zero_points)
        case "int8":
            return dequantise_rows(*quantise_rows(weights, 8, counts), 8)
    import gguf

    packed = ggml.load().quantise(weights, type_name, counts)
    found: Floats = gguf.dequantize(packed, gguf.GGMLQuantizationType[type_name.upper()])
    return found


def _losses(
    checkpoint: Checkpoint,
    spec: TensorSpec,
    types: tuple[str, ...],
    counts: Floats | None,
    sensitivity: Sensitivity,
) -> list[float]:
    """Return the loss of each type, infinite for one that the shape forbids."""
    step = max(1, spec.shape[0] // SAMPLE_ROWS)
    weights = checkpoint.read(spec.name)[::step]
    return [
        sensitivity.loss(quantised(kind, weights, counts) - weights, 0, step)
        if _is_possible(kind, spec.shape[1])
        else float("inf")
        for kind in types
    ]


def _is_possible(type_name: str, columns: int) -> bool:
    if type_name.startswith("int"):
        return columns % BLOCK == 0
    return legal_type(type_name, columns)[0] == type_name
