"""What an artifact's file holds, read back by libraries that took no part in writing it.

One protocol for every format; it knows no checkpoint, so it can be compared with one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, TensorSpec
from converters.checkpoint import Checkpoint
from edgekit.artifact import Artifact

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as the engine computes with it.

    `values` are float32 in the checkpoint's shape and order of rows. `type` is the format's name
    of how it is stored, `bits` the bits of one weight without scales, 32 for float32.
    """

    values: Floats
    type: str
    bits: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions as stored: `base` alone, or the tables of the first positions.

    `cosines` and `sines` are float32, [positions, head_dim / 2]; None where the file stores none.
    """

    base: float | None = None
    scaling: dict[str, Any] = field(default_factory=dict)
    cosines: Floats | None = None
    sines: Floats | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of its model, in the words of no format; None where it says nothing.

    `numbers` are hyperparameters by name: see `expected.hyperparameters`. A number that the file
    has once for each layer is a list. `layers` are the indices that tensors or inputs are named
    for. `special` holds `bos`, `eos`, `pad`, `add_bos` and `stop` as far as the file says them, or
    `ends`, of which each must be one of the stop tokens.
    `tokenizer` are parts of the tokenizer by name, to be compared whole.
    """

    numbers: dict[str, Any]
    layers: list[int]
    special: dict[str, Any]
    tokenizer: dict[str, Any]
    chat_template: str | None
    rope: Rope


class ModelFile(Protocol):
    """The opened model file of an artifact."""

    def said(self) -> Said:
        """Return what the file says of its model. Raises InputError where it cannot be read."""

    def names(self, shape: ModelShape) -> set[str]:
        """Return the checkpoint's names of the tensors that are stored."""

    def unknown(self, shape: ModelShape) -> list[str]:
        """Return the file's own names of tensors that are no part of the model."""

    def tensor(self, spec: TensorSpec) -> StoredTensor | None:
        """Return a tensor, None where there is none. Raises InputError for one that is broken."""

    def expected_tokenizer(self, checkpoint: Checkpoint, rows: int) -> dict[str, Any]:
        """Return what `Said.tokenizer` should be for `checkpoint`, `rows` the embedding's."""


def open_file(artifact: Artifact, shape: ModelShape) -> ModelFile:
    """Return the reader of the artifact's format. Raises InputError for a damaged file."""
    match artifact.manifest.format:
        case "gguf":
            from edgekit.workflows.certify.gguf_file import GgufFile

            return GgufFile(artifact.entry, shape)
        case "onnx":
            from edgekit.workflows.certify.onnx_file import OnnxFile

            return OnnxFile(artifact.path, artifact.entry, shape)
        case "torch":
            from edgekit.workflows.certify.torch_file import TorchFile

            return TorchFile(artifact.path, artifact.entry)
        case unknown:
            assert_never(unknown)
