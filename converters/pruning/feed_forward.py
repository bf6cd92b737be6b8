"""Width of the feed-forward: units removed from every layer, those that contribute least.

A unit's contribution to the layer's output is its activation times its column of the down
projection, so the mean squared activation times the squared norm of that column is what removing
it costs, if units are uncorrelated: Wanda's score (Sun et al. 2023, arXiv 2306.11695) summed over
a structure, squared, as in FLAP's comparison "Wanda-sp" (An et al. 2023, arXiv 2312.11805).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.architectures import Role
from converters.pruning.draft import Draft, Indices, keep_columns, keep_rows
from converters.pruning.running import Ids, listening
from edgekit.errors import UsageError
from edgekit.progress import Progress

if TYPE_CHECKING:
    import torch

K_QUANT_ROW = 256  # a row of a K-quant is whole blocks of 256 weights; so is one of IQ4_XS


def width_to_keep(asked: int, units: int, *, exact: bool) -> tuple[int, str]:
    """Return how many of `units` to keep when `asked` are, and why it is another number or "".

    Unless `exact`, the nearest multiple of 256 below `units`. Raises UsageError where nothing or
    everything would be removed.
    """
    if not 1 <= asked < units:
        raise UsageError(
            f"--feed-forward {asked}: the model has {units} units in a layer",
            hint=f"1 to {units - 1} can be kept",
        )
    if exact or asked % K_QUANT_ROW == 0:
        return asked, ""
    most = (units - 1) // K_QUANT_ROW * K_QUANT_ROW
    if not most:
        raise UsageError(
            f"--feed-forward {asked}: no multiple of {K_QUANT_ROW} is below the {units} units",
            hint="add --exact-width: K-quants will not be possible",
        )
    width = min(most, max(1, round(asked / K_QUANT_ROW)) * K_QUANT_ROW)
    return width, f"a multiple of {K_QUANT_ROW}, so that K-quants are possible"


def choose(model: Any, texts: Sequence[Ids], width: int, progress: Progress) -> list[Indices]:
    """Return the `width` units to keep in each layer of the transformers `model`, ascending."""
    import torch

    downs = [layer.mlp.down_proj for layer in model.model.layers]
    sums = [torch.zeros(down.weight.shape[1], dtype=torch.float64) for down in downs]

    def hear(place: int, inputs: torch.Tensor) -> None:
        sums[place] += inputs.double().square().sum(0)

    total = sum(map(len, texts))
    with (
        torch.inference_mode(),
        listening(downs, hear),
        progress.task("weighing feed-forward units", total, unit="tokens") as advance,
    ):
        for ids in texts:
            model.model(torch.tensor([list(ids)]), use_cache=False)
            advance(len(ids))
        scores = [s * d.weight.double().square().sum(0) for s, d in zip(sums, downs, strict=True)]
    return [np.sort(np.argsort(-score.numpy(), kind="stable")[:width]) for score in scores]


def keep_units(draft: Draft, kept: Sequence[Indices]) -> Draft:
    """Return the draft with the units `kept[layer]` only; as many in every layer."""
    changed = {}
    for spec in draft.shape.tensors():
        if spec.layer is None:
            continue
        if spec.role in (Role.GATE, Role.UP):
            changed[spec.name] = keep_rows(draft.weights[spec.name], kept[spec.layer])
        elif spec.role is Role.DOWN and spec.part == "weight":
            changed[spec.name] = keep_columns(draft.weights[spec.name], kept[spec.layer])
    return draft.changed({"intermediate_size": len(kept[0])}, changed)
