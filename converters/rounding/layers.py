"""Layer by layer through a model: round each matrix for the inputs that the rounded model gives it.

Two streams of hidden states go side by side, of the original and of the model as rounded so far,
so that a layer makes up for what the layers before it have changed. It knows torch modules by the
names of their weights, and neither formats nor files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from converters.architectures import ModelShape, Role
from converters.reference import Window
from converters.rounding.compensate import Moments, Rounding
from converters.rounding.grids import Blocks
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
    """Some windows on their way: hidden states of the original and of the rounded model, each
    [windows, longest, hidden], and which positions hold tokens."""

    original: torch.Tensor
    rounded: torch.Tensor
    filled: torch.Tensor


def round_layers(
    model: Any,
    shape: ModelShape,
    starts: Mapping[str, Blocks],
    windows: Sequence[Window],
    progress: Progress,
) -> dict[str, Blocks]:
    """Return better codes and scales for `starts`, the layers' matrices as plainly rounded.

    `model` is the transformers model in float32 and keeps its weights; `starts` maps names of
    weights to blocks, an embedding among them counts as already rounded. Windows are shorter than
    any sliding window.
    """
    found: dict[str, Blocks] = {}
    with torch.inference_mode(), progress.task(
        "compensating rounding errors", shape.layers, unit="layers"
    ) as advance:  # fmt: skip
        streams = list(_streams(model, starts, windows))
        longest = streams[0].original.shape[1]
        positions = model.model.rotary_emb(streams[0].original, torch.arange(longest)[None])
        for number, layer in enumerate(model.model.layers):
            prefix = f"model.layers.{number}."
            moments = _collect(layer, streams, positions)
            chosen = {n: b for n, b in starts.items() if n.startswith(prefix)}
            found |= _round_layer(layer, prefix, chosen, moments)
            with _computing_with(layer, prefix, found):
                for stream in streams:
                    stream.rounded = _apply(layer, stream.rounded, positions)
            advance(1)
    return found


def _streams(
    model: Any, starts: Mapping[str, Blocks], windows: Sequence[Window]
) -> Iterator[_Stream]:
    """Yield the embedded windows; both models begin with their own embedding."""
    longest = max(len(window.token_ids) for window in windows)
    original = model.model.embed_tokens.weight
    blocks = starts.get(f"{Role.EMBEDDING}.weight")
    rounded = original if blocks is None else torch.from_numpy(blocks.weights())
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        part = windows[first : first + WINDOWS_AT_ONCE]
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        filled = torch.zeros(len(part), longest, dtype=torch.bool)
        for row, window in enumerate(part):
            ids[row, : len(window.token_ids)] = torch.tensor(window.token_ids)
            filled[row, : len(window.token_ids)] = True
        embed = torch.nn.functional.embedding
        yield _Stream(embed(ids, original), embed(ids, rounded), filled)


def _apply(layer: Any, hidden: torch.Tensor, positions: Any) -> torch.Tensor:
    output = layer(hidden, position_embeddings=positions)
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _collect(layer: Any, streams: Sequence[_Stream], positions: Any) -> dict[Role, Moments]:
    """Run a layer, still unrounded, on both streams; move the original stream behind it.

    Returns the damped moments of the inputs of each stage, by the stage's first role.
    """
    sums: dict[Role, list[torch.Tensor]] = {}
    total = 0
    with _listening(layer) as inputs:
        for stream in streams:
            stream.original, seen = _apply(layer, stream.original, positions), dict(inputs)
            _apply(layer, stream.rounded, positions)
            for role in seen:
                original, rounded = seen[role][stream.filled], inputs[role][stream.filled]
                products = [rounded.T @ rounded, original.T @ rounded]
                known = sums.setdefault(role, [torch.zeros_like(p) for p in products])
                for known_sum, product in zip(known, products, strict=True):
                    known_sum += product
            total += int(stream.filled.sum())
    return {role: Moments(inner / total, crossed / total).damped()
            for role, (inner, crossed) in sums.items()}  # fmt: skip


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
    layer: Any, prefix: str, starts: Mapping[str, Blocks], moments: Mapping[Role, Moments]
) -> dict[str, Blocks]:
    found = {}
    for stage in STAGES:
        for role in stage:
            name = f"{prefix}{role}.weight"
            if name in starts:
                weights = layer.get_submodule(role).weight
                found[name] = _rounded(weights, starts[name], moments[stage[0]])
    return found


def _rounded(weights: torch.Tensor, start: Blocks, moments: Moments) -> Blocks:
    work = Rounding(weights, start, moments)
    work.compensate()
    for _ in range(SWEEPS):
        work.sweep()
    return work.blocks()


@contextmanager
def _computing_with(layer: Any, prefix: str, blocks: Mapping[str, Blocks]) -> Iterator[None]:
    """Let the layer compute with rounded weights while the block runs."""
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    for role in _roles():
        name = f"{prefix}{role}.weight"
        if name in blocks:
            weight = layer.get_submodule(role).weight.data
            saved.append((weight, weight.clone()))
            weight.copy_(torch.from_numpy(blocks[name].weights()))
    try:
        yield
    finally:
        for weight, original in saved:
            weight.copy_(original)


def _roles() -> Iterable[Role]:
    return (role for stage in STAGES for role in stage)
