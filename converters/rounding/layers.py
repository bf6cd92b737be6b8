"""Layer by layer through a model: round each matrix for the inputs that the text gives it.

Inputs are those of the original. Those of the model as rounded so far gave the same result within
a hundredth, for twice the time; making up for what the layers before had changed (GPTAQ, Li et al.
2025, arXiv 2504.02692) went astray: after thirty layers nothing was left of the model. It knows
torch modules by the names of their weights, and neither formats nor files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from converters.architectures import ModelShape, Role
from converters.reference import Window, side_by_side
from converters.rounding.compensate import Rounding, damped
from converters.rounding.grids import Blocks, joined
from edgekit.progress import Progress

# The matrices that share an input: one collection of moments does for all of them.
STAGES = (
    (Role.QUERY, Role.KEY, Role.VALUE),
    (Role.ATTENTION_OUTPUT,),
    (Role.GATE, Role.UP),
    (Role.DOWN,),
)
SWEEPS = 3  # the error falls by a tenth in the first, and hardly any more after the third
WINDOWS_AT_ONCE = 16


@dataclass(slots=True)
class _Stream:
    """Some windows on their way: `hidden` states, [windows, longest, hidden], and which positions
    of them hold tokens, [windows, longest]."""

    hidden: torch.Tensor
    filled: torch.Tensor


def round_layers(
    model: Any,
    shape: ModelShape,
    starts: Mapping[str, Blocks],
    windows: Sequence[Window],
    progress: Progress,
) -> dict[str, Blocks]:
    """Return better codes and scales for those of `starts` that lie in a layer.

    `model` is the transformers model in float32, `starts` maps names of weights to their blocks
    as plainly rounded. Windows are shorter than any sliding window.
    """
    found: dict[str, Blocks] = {}
    with (
        torch.inference_mode(),
        progress.task("compensating rounding errors", shape.layers, unit="layers") as advance,
    ):
        streams = list(_streams(model, windows))
        longest = max(stream.hidden.shape[1] for stream in streams)
        positions = model.model.rotary_emb(streams[0].hidden, torch.arange(longest)[None])
        for number, layer in enumerate(model.model.layers):
            moments = _pass(layer, streams, positions)
            found |= _round_layer(layer, f"model.layers.{number}.", starts, moments)
            advance(1)
    return found


def _streams(model: Any, windows: Sequence[Window]) -> Iterator[_Stream]:
    """Yield the embedded windows, so many at once as fit the processor's caches well."""
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        ids, filled = side_by_side(windows[first : first + WINDOWS_AT_ONCE])
        yield _Stream(model.model.embed_tokens(ids), filled)


def _pass(layer: Any, streams: Sequence[_Stream], positions: Any) -> dict[Role, torch.Tensor]:
    """Move the streams behind a layer; return the damped moments of the inputs of its stages."""
    sums: dict[Role, torch.Tensor] = {}
    total = sum(int(stream.filled.sum()) for stream in streams)
    with _listening(layer) as inputs:
        for stream in streams:
            here = tuple(values[:, : stream.hidden.shape[1]] for values in positions)
            output = layer(stream.hidden, position_embeddings=here)
            stream.hidden = output[0] if isinstance(output, tuple) else output
            for role, values in inputs.items():
                seen = values[stream.filled]
                moments = seen.T @ seen
                sums[role] = sums[role] + moments if role in sums else moments
    return {role: damped(moments / total) for role, moments in sums.items()}


@contextmanager
def _listening(layer: Any) -> Iterator[dict[Role, torch.Tensor]]:
    """Hold what each stage of the layer multiplied last, by the stage's first role."""
    inputs: dict[Role, torch.Tensor] = {}

    def hook(role: Role) -> Any:
        return lambda _module, arguments: inputs.__setitem__(role, arguments[0])

    hooks = [
        layer.get_submodule(stage[0]).register_forward_pre_hook(hook(stage[0])) for stage in STAGES
    ]
    try:
        yield inputs
    finally:
        for handle in hooks:
            handle.remove()


def _round_layer(
    layer: Any, prefix: str, starts: Mapping[str, Blocks], moments: Mapping[Role, torch.Tensor]
) -> dict[str, Blocks]:
    found: dict[str, Blocks] = {}
    for stage in STAGES:
        names = [f"{prefix}{role}.weight" for role in stage]
        weights = {n: layer.get_parameter(n.removeprefix(prefix)) for n in names if n in starts}
        for group in _by_grid(weights, starts):
            matrices = [starts[name] for name in group]
            stacked = torch.cat([weights[name] for name in group])
            rounded = _rounded(stacked, joined(matrices), moments[stage[0]])
            first = 0
            for name, matrix in zip(group, matrices, strict=True):
                found[name] = rounded.rows(first, len(matrix.codes))
                first += len(matrix.codes)
    return found


def _by_grid(names: Mapping[str, Any], starts: Mapping[str, Blocks]) -> list[list[str]]:
    """Group the names by the grid of their matrices: one stack is one piece of work."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(starts[name].grid.name, []).append(name)
    return list(groups.values())


def _rounded(weights: torch.Tensor, start: Blocks, moments: torch.Tensor) -> Blocks:
    work = Rounding(weights, start, moments)
    work.compensate()
    for _ in range(SWEEPS):
        work.sweep()
    return work.blocks()
