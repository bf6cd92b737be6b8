"""LoRA: a matrix learns through two thin ones beside it, which are added to it at the end.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. It knows
torch's linear layers and nothing of language models, but that the output head is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SCALE = 2.0  # the paper's alpha / r, with the usual alpha = 2 r
HEAD = "lm_head"


def add_adapters(
    model: Any,
    rank: int,
    seed: int = 0,
    scale: float = SCALE,
    learns: Callable[[str], bool] = lambda _name: True,
) -> dict[str, torch.nn.Parameter]:
    """Put an adapter of `rank` beside every linear layer of `model` but its head.

    Its product counts `scale` times; `learns` says which layers get one, by their names. Returns
    the new parameters by name, `<layer>.down` [rank, inputs] and `<layer>.up` [outputs, rank]. `up`
    is zero: at first the model answers as before.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.nn.Parameter] = {}
    for name, layer in linear_layers(model):
        if not learns(name):
            continue
        down = torch.empty(rank, layer.in_features)
        down.uniform_(-1, 1, generator=generator).mul_(math.sqrt(3 / layer.in_features))
        up = torch.zeros(layer.out_features, rank)
        device = layer.weight.device
        layer.down = torch.nn.Parameter(down.to(device))
        layer.up = torch.nn.Parameter(up.to(device))
        layer.adapter_scale = scale
        layer.adapter_hook = layer.register_forward_hook(_add)
        found |= {f"{name}.down": layer.down, f"{name}.up": layer.up}
    return found


def merge_adapters(model: Any) -> None:
    """Add each adapter to the matrix it lies beside, and remove it."""
    import torch

    for _, layer in linear_layers(model):
        if not hasattr(layer, "adapter_hook"):
            continue
        with torch.no_grad():
            layer.weight += layer.adapter_scale * (layer.up @ layer.down)
        layer.adapter_hook.remove()
        del layer.down, layer.up, layer.adapter_hook, layer.adapter_scale


def linear_layers(model: Any) -> list[tuple[str, Any]]:
    """Return the linear layers of `model` but its head, with their names."""
    import torch

    linear = torch.nn.Linear
    return [(n, m) for n, m in model.named_modules() if isinstance(m, linear) and n != HEAD]


def _add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    import torch

    linear = torch.nn.functional.linear
    return output + layer.adapter_scale * linear(linear(inputs[0], layer.down), layer.up)
