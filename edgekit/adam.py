"""Adam's memory as tensors with names, so that an interrupted run goes on as if it had not been.

Knows torch's optimisers of that family; knows neither models nor files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def adam_memory(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return what `optimiser` remembers of `parameters`: three tensors for each that was moved."""
    memory = {}
    for name, parameter in parameters.items():
        if kept := optimiser.state.get(parameter):
            memory[f"step.{name}"] = kept["step"]
            memory[f"mean.{name}"] = kept["exp_avg"]
            memory[f"square.{name}"] = kept["exp_avg_sq"]
    return memory


def restore_adam(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, torch.Tensor],
    memory: Mapping[str, torch.Tensor],
) -> None:
    """Let `optimiser` remember what `adam_memory` returned of the same parameters."""
    fused = optimiser.defaults.get("fused")
    for name, parameter in parameters.items():
        if f"mean.{name}" in memory:
            step = memory[f"step.{name}"]
            optimiser.state[parameter] = {
                "step": step.to(parameter.device) if fused else step,
                "exp_avg": memory[f"mean.{name}"].to(parameter.device),
                "exp_avg_sq": memory[f"square.{name}"].to(parameter.device),
            }
