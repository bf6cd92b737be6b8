"""A tensor of which each process may hold a piece: put together, and divided like another one.

It knows torch's distributed tensors, and neither models nor files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def put_together(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor of which this process may hold a piece."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def pieces(
    memory: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of `memory`, `<kind>.<parameter>`, divided as their parameters are."""
    found = {}
    for key, whole in memory.items():
        parameter = parameters[key.partition(".")[2]]
        found[key] = piece(whole, parameter) if whole.shape == parameter.shape else whole
    return found


def piece(whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return `whole`, which every process has, divided as `parameter` is, if it is divided."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return whole
    device = parameter.device
    # No source rank: nothing is sent, each process cuts its own piece.
    divided: torch.Tensor = distribute_tensor(
        whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return divided
