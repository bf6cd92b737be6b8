"""Exported: what an exporter hands back to the pipeline, the same for every format."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.artifact import Substitution


@dataclass(frozen=True, slots=True)
class Exported:
    """The finished files of one export.

    `entry` is the file that the engine opens, relative to the artifact's folder.
    `bits_per_weight` counts every byte of tensor data over the number of weights.
    `kv_bytes_per_token` is the KV cache's cost of one token in the engine's default precision.
    """

    entry: str
    bits_per_weight: float
    substitutions: list[Substitution]
    kv_bytes_per_token: int
