"""One model over several processes: each holds a piece of every weight.

Zhao et al. 2023, "PyTorch FSDP", arXiv 2304.11277, as torch's `fully_shard` does it: each decoder
layer is put together when it is needed, and the pieces' gradients are averaged. What is written
is whole, as one process would have it. It knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.tensors_file import save_tensors
from edgekit.train.hardware import Hardware
from edgekit.train.pieces import put_together
from edgekit.train.team import Team
from edgekit.train.trained import Trained

if TYPE_CHECKING:
    import torch


def shard(model: Any, trained: Trained, team: Team, hardware: Hardware) -> Trained:
    """Divide the weights of `model`, which is on the CPU, among the processes of `team`.

    Each goes to the device of its process. Returns `trained` with the parameters that stand in the
    model now. A team of one has nothing to divide: the model goes to the device as it is.
    """
    if team.size == 1:
        model.to(hardware.device)
        return trained
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(hardware.device, (team.size,))
    options: dict[str, Any] = {"mesh": mesh}
    if hardware.bf16 and hardware.device == "cuda":
        # Autocast alone would keep a bfloat16 copy of every whole weight until the backward pass.
        options["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )
    for layer in model.get_decoder().layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    now = dict(model.named_parameters())
    return replace(trained, parameters={name: now[name] for name in trained.parameters})


def save_whole(path: Path, tensors: Mapping[str, torch.Tensor], document: Any, team: Team) -> None:
    """Write `tensors`, put together, and `document` to `path`: the first process does, atomically.

    Raises GateError there. One tensor after the other is put together, so that only the first
    process's main memory needs room for all.
    """
    whole = on_first(tensors, team)
    if team.is_first:
        save_tensors(path, whole, document)


def on_first(tensors: Mapping[str, torch.Tensor], team: Team) -> dict[str, torch.Tensor]:
    """Return `tensors` put together in the main memory of the first process; nothing in others.

    A team of one gets them as they are.
    """
    if team.size == 1:
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        whole = put_together(tensor)
        if team.is_first:
            found[name] = whole.cpu()
    return found
