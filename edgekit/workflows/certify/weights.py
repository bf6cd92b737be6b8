"""Are the stored weights those of the checkpoint, as far as their type lets them be?

Rounding is allowed, compensation of errors and tuning of scales and norms too; another row
order, another tensor or lost scales are not. Nothing is executed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, Role, TensorSpec
from converters.checkpoint import Checkpoint
from edgekit.errors import EdgekitError
from edgekit.progress import Progress
from edgekit.workflows.certify.stored import Floats, ModelFile, StoredTensor

Doubles = NDArray[np.float64]
BLOCK = 32
CHUNK_ROWS = 4096
# bits of a weight -> the largest relative RMS error, and the largest spread of the blocks' gains.
# Rounding to nearest makes a third of these at 4 bits, compensating errors up to the double, and
# tuning may move a block's scale by some per cent, whatever the bits.
LIMITS = {32: (1e-5, 1e-5), 16: (0.01, 0.01), 8: (0.12, 0.12), 6: (0.15, 0.12), 5: (0.25, 0.13),
          4: (0.35, 0.15), 3: (0.55, 0.3), 2: (0.9, 0.5)}  # fmt: skip
GAIN_CHANGE = 0.5  # tuning moves the norms' gains by some per cent
FLAT, VARIED = 1e-3, 0.02  # relative spread of gains that are all alike, and that are not
DISSIMILAR = 0.7  # correlation below which varied gains are another norm's


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like a stored tensor is to the checkpoint's.

    `relative_error` is the RMS of the difference over the RMS of the weights. `correlation` is
    Pearson's. `gain_spread` tells how much the length of a block's projection on the original
    varies from block to block, weighted by energy: rounding keeps it near 0, wrong scales do not.
    """

    relative_error: float
    correlation: float
    gain_spread: float


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor of the checkpoint: how it is stored, how like it is, and what is wrong or ""."""

    name: str
    weights: int
    type: str
    bits: int
    likeness: Likeness
    wrong: str


def likeness(original: Floats, stored: Floats) -> Likeness:
    """Return how like two tensors of one shape are; all figures are infinite for non-numbers."""
    if not np.isfinite(stored).all():
        return Likeness(np.inf, 0.0, np.inf)
    sums = np.zeros(6)
    gains = np.zeros(2)
    for a, b in _chunks(original, stored):
        sums += [
            a.sum(),
            b.sum(),
            (a * a).sum(),
            (b * b).sum(),
            (a * b).sum(),
            ((a - b) ** 2).sum(),
        ]
        gains += _block_gains(a, b)
    mean_a, mean_b, aa, bb, ab = sums[:5] / original.size
    variance = (aa - mean_a**2) * (bb - mean_b**2)
    covariance = ab - mean_a * mean_b
    energy = max(float(aa), np.finfo(np.float64).tiny)
    return Likeness(
        relative_error=float(np.sqrt(sums[5] / original.size / energy)),
        correlation=float(covariance / np.sqrt(variance)) if variance > 0 else float(aa == bb),
        gain_spread=float(np.sqrt(gains[0] / gains[1])) if gains[1] > 0 else 0.0,
    )


def _chunks(a: Floats, b: Floats) -> Iterator[tuple[Doubles, Doubles]]:
    for first in range(0, len(a), CHUNK_ROWS):
        part = slice(first, first + CHUNK_ROWS)
        yield a[part].astype(np.float64), b[part].astype(np.float64)


def _block_gains(a: Doubles, b: Doubles) -> tuple[float, float]:
    """Return the energy-weighted squared deviation of the blocks' gains, and the energy."""
    if a.shape[-1] % BLOCK:
        return 0.0, 0.0
    a, b = a.reshape(-1, BLOCK), b.reshape(-1, BLOCK)
    energy = (a * a).sum(axis=1)
    gain = np.divide((a * b).sum(axis=1), energy, out=np.ones_like(energy), where=energy > 0)
    mean = (gain * energy).sum() / max(energy.sum(), np.finfo(np.float64).tiny)
    return float((energy * (gain - mean) ** 2).sum()), float(energy.sum())


def head_specs(shape: ModelShape) -> tuple[TensorSpec, TensorSpec]:
    """Return the output head and the embedding."""
    size = (shape.vocabulary_size, shape.hidden)
    return (
        TensorSpec(Role.OUTPUT, None, "weight", size),
        TensorSpec(Role.EMBEDDING, None, "weight", size),
    )


def compare_all(
    file: ModelFile,
    checkpoint: Checkpoint,
    shape: ModelShape,
    progress: Progress,
    keep: Callable[[TensorSpec, Floats], None],
) -> list[TensorReport]:
    """Compare every tensor of the file with the checkpoint; a missing one is not reported here.

    `keep` is given each tensor's values, float32 in the checkpoint's shape.
    """
    specs = list(shape.tensors())
    reports = []
    with progress.task("comparing weights", len(specs), unit="tensors") as advance:
        for spec in specs:
            if (report := _compare(file, checkpoint, spec, keep)) is not None:
                reports.append(report)
            advance(1)
    return reports


def _compare(
    file: ModelFile,
    checkpoint: Checkpoint,
    spec: TensorSpec,
    keep: Callable[[TensorSpec, Floats], None],
) -> TensorReport | None:
    try:
        stored = file.tensor(spec)
    except EdgekitError as error:
        return TensorReport(spec.name, 0, "?", 32, Likeness(np.inf, 0.0, np.inf), error.message)
    if stored is None:
        return None
    keep(spec, stored.values)
    original = checkpoint.read(spec.name)
    found = likeness(original, stored.values)
    if len(spec.shape) == 1 and spec.part == "weight":
        wrong = _gains_wrong(original, stored.values, found)
    else:
        wrong = _matrix_wrong(stored, found)
    return TensorReport(spec.name, original.size, stored.type, stored.bits, found, wrong)


def _matrix_wrong(stored: StoredTensor, found: Likeness) -> str:
    limit, spread = LIMITS[min(LIMITS, key=lambda bits: abs(bits - stored.bits))]
    if not np.isfinite(found.relative_error):
        return "holds values that are infinite or not a number"
    if found.relative_error > limit:
        kind = "is not the checkpoint's" if found.correlation < 0.5 else "differs too much"
        return f"{kind}: relative error {found.relative_error:.3g}, {stored.type} allows {limit:g}"
    if found.gain_spread > spread:
        return (
            "has scales that are not its own: its blocks' lengths vary by "
            f"{found.gain_spread:.3g}, {stored.type} allows {spread:g}"
        )
    return ""


def _gains_wrong(original: Floats, stored: Floats, found: Likeness) -> str:
    """Judge a norm's gains, which tuning may move by some per cent but not replace."""
    if not np.isfinite(found.relative_error):
        return "holds values that are infinite or not a number"
    if found.relative_error > GAIN_CHANGE:
        return f"differs too much: relative error {found.relative_error:.3g}"
    before, after = (float(v.std() / (np.abs(v).mean() + 1e-30)) for v in (original, stored))
    if before > VARIED and after < FLAT:
        return "has lost its gains: they are all alike"
    if before > 5 * VARIED and found.correlation < DISSIMILAR:
        return f"has another norm's gains: correlation {found.correlation:.2f}"
    return ""
