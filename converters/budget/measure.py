"""Measuring: the divergence that a plan of types really has, in torch, on given windows.

The weights are quantised as the exporter would do it, so what is measured here is what the file
will hold; only the engine's own arithmetic is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.architectures import ModelShape, TensorSpec
from converters.budget.table import quantised
from converters.checkpoint import Checkpoint
from converters.divergence import CompactRows, compact, compare
from converters.importance import Importance, is_weighed
from converters.reference import Window, targets
from edgekit.progress import Progress

Floats = NDArray[np.float32]
WORKERS = 2  # one quantises while the other's matrix is copied


class Measurer:
    """Holds the original's answers on `windows`, and a model whose weights are exchanged.

    `model` is the transformers model in float32; after the first `divergence` its weights are
    whatever was measured last.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: ModelShape,
        model: Any,
        importance: Importance,
        windows: Sequence[Window],
    ) -> None:
        self._checkpoint, self._shape, self._model = checkpoint, shape, model
        self._importance, self._windows = importance, windows
        self._types: dict[str, str] = {}
        rng = np.random.default_rng(0)
        self._reference: list[CompactRows] = [
            compact(self._logits(window), targets(window), rng) for window in windows
        ]

    def divergence(self, types: Mapping[str, str], progress: Progress) -> float:
        """Return the mean divergence, in nats, with each matrix in the type `types` names for it.

        `types` maps names of the checkpoint's matrices; those that it leaves out are as they are.
        """
        self._exchange(types, progress)
        total = sum(len(window.token_ids) for window in self._windows)
        found = []
        with progress.task("measuring the divergence", total, unit="tokens") as advance:
            for window, rows in zip(self._windows, self._reference, strict=True):
                found.append(compare(rows, self._logits(window), targets(window)).divergence)
                advance(len(window.token_ids))
        return float(np.concatenate(found).mean())

    def _exchange(self, types: Mapping[str, str], progress: Progress) -> None:
        """Put the matrices into the model whose type is not the one they have there."""
        specs = [
            spec
            for spec in self._shape.tensors()
            if types.get(spec.name, "") != self._types.get(spec.name, "")
        ]
        with (
            ThreadPoolExecutor(WORKERS) as pool,
            progress.task("quantising", len(specs), unit="matrices") as advance,
        ):
            matrices = pool.map(partial(self._matrix, types), specs)
            for spec, weights in zip(specs, matrices, strict=True):
                self._put(spec, weights)
                self._types[spec.name] = types.get(spec.name, "")
                advance(1)

    def _matrix(self, types: Mapping[str, str], spec: TensorSpec) -> Floats:
        weights = self._checkpoint.read(spec.name)
        if spec.name not in types:
            return weights
        counts = self._importance.of(spec) if is_weighed(spec, self._shape) else None
        return quantised(types[spec.name], weights, counts)

    def _put(self, spec: TensorSpec, weights: Floats) -> None:
        owner = self._model.get_submodule(spec.name.removesuffix(".weight"))
        with torch.no_grad():
            owner.weight.copy_(torch.from_numpy(weights))

    def _logits(self, window: Window) -> Floats:
        with torch.inference_mode():
            output = self._model(torch.tensor([window.token_ids]), use_cache=False)
        logits: Floats = output.logits[0, :-1].numpy()
        return logits
