"""Runs a transformers decoder layer by layer: what enters each layer, and what follows from it.

It relies on what the four supported families share: `model.model.layers`, `norm`, `lm_head`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Ids = Sequence[int]


@dataclass(slots=True)
class Trace:
    """One text on its way through a model.

    `states[i]` enters layer i, float32 [1, tokens, hidden]; the last one leaves the last layer.
    `arguments[i]` are layer i's other arguments: masks and rotary embeddings.
    """

    states: list[torch.Tensor]
    arguments: list[dict[str, Any]]


def trace(model: Any, token_ids: Ids) -> Trace:
    """Run the layers of `model` over `token_ids` from an empty context and keep what enters each.

    Call it under `torch.inference_mode()`.
    """
    import torch

    found = Trace([], [])

    def keep(_layer: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        arguments = dict(named)
        state = positional[0] if positional else arguments.pop("hidden_states")
        found.states.append(state)
        found.arguments.append(arguments)

    def keep_last(_norm: Any, positional: tuple[Any, ...]) -> None:
        found.states.append(positional[0])

    hooks = [
        layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in model.model.layers
    ]
    hooks.append(model.model.norm.register_forward_pre_hook(keep_last))
    try:
        model.model(torch.tensor([list(token_ids)], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def step(layer: Any, state: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """Return what leaves `layer` when `state` enters it."""
    output = layer(state, **arguments)
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result


def head(model: Any, state: torch.Tensor) -> torch.Tensor:
    """Return the logits that follow from what leaves the last layer: [tokens, vocabulary]."""
    logits: torch.Tensor = model.lm_head(model.model.norm(state))[0]
    return logits


@contextmanager
def listening(modules: Sequence[Any], hear: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Tell `hear` what enters each of `modules` while the block runs: its place, [tokens, size]."""

    def hook(place: int) -> Any:
        def tell(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hear(place, inputs[0].flatten(0, -2))

        return tell

    hooks = [m.register_forward_pre_hook(hook(place)) for place, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
