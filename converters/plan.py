"""Plan: what a conversion will write, known before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.artifact import Format, Substitution


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output: its name there, its name in the checkpoint, type and size.

    `shape` is as in the checkpoint, rows first. `source` is "" for a tensor that is computed.
    """

    name: str
    source: str
    type: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written. `weights` counts the checkpoint's weights, tied ones once.

    `file_bytes` is the size of the finished model file.
    """

    format: Format
    scheme: str
    tensors: tuple[PlannedTensor, ...]
    substitutions: tuple[Substitution, ...]
    weights: int
    file_bytes: int

    @property
    def tensor_bytes(self) -> int:
        """Return the bytes of all tensor data."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of tensor data over the number of weights."""
        return 8 * self.tensor_bytes / self.weights
