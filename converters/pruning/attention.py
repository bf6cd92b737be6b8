"""Width of the attention: key-value heads removed with the query heads that read them.

A group's contribution to the layer's output is what its heads send through their columns of the
output projection; its mean squared norm on a text is what removing the group costs, if groups are
uncorrelated (the head's share in Wanda-sp, An et al. 2023, arXiv 2312.11805, without its diagonal
approximation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.architectures import ModelShape, Role
from converters.pruning.draft import Draft, Indices, keep_columns, keep_rows
from converters.pruning.running import Ids, listening
from edgekit.errors import UsageError
from edgekit.progress import Progress

if TYPE_CHECKING:
    import torch


def check_groups(asked: int, groups: int) -> None:
    """Raise UsageError unless `asked` of `groups` groups can be kept."""
    if not 1 <= asked < groups:
        raise UsageError(
            f"--kv-groups {asked}: the model has {groups} key-value heads in a layer",
            hint=f"1 to {groups - 1} can be kept" if groups > 1 else "none can be removed",
        )


def restriction(shape: ModelShape) -> str:
    """Return what fewer heads forbid for a model of `shape`, or ""."""
    if shape.family == "qwen2":  # its graph takes the hidden size for the heads' sizes together
        return "llama.cpp computes no qwen2 with fewer heads: it converts to ONNX, not to GGUF"
    return ""


def choose(
    model: Any, shape: ModelShape, texts: Sequence[Ids], count: int, progress: Progress
) -> list[Indices]:
    """Return the `count` groups to keep in each layer of the transformers `model`, ascending."""
    import torch

    outputs = [layer.self_attn.o_proj for layer in model.model.layers]
    scores = np.zeros((shape.layers, shape.kv_heads))

    def hear(place: int, inputs: torch.Tensor) -> None:
        size = shape.query_size // shape.kv_heads
        for group in range(shape.kv_heads):
            columns = slice(group * size, (group + 1) * size)
            sent = inputs[:, columns] @ outputs[place].weight[:, columns].T
            scores[place, group] += float(sent.double().square().sum())

    total = sum(map(len, texts))
    with (
        torch.inference_mode(),
        listening(outputs, hear),
        progress.task("weighing attention groups", total, unit="tokens") as advance,
    ):
        for ids in texts:
            model.model(torch.tensor([list(ids)]), use_cache=False)
            advance(len(ids))
    return [np.sort(np.argsort(-row, kind="stable")[:count]) for row in scores]


def keep_groups(draft: Draft, kept: Sequence[Indices]) -> Draft:
    """Return the draft with the key-value heads `kept[layer]` and their query heads only.

    The head's size is written into the configuration: it is no longer the hidden size over the
    number of heads.
    """
    shape = draft.shape
    query_heads = shape.heads // shape.kv_heads  # of each group; they are neighbours
    changed = {}
    for spec in shape.tensors():
        if spec.layer is None:
            continue
        tensor, groups = draft.weights[spec.name], kept[spec.layer]
        if spec.role in (Role.KEY, Role.VALUE):
            changed[spec.name] = keep_rows(tensor, _spans(groups, shape.head_dim))
        elif spec.role is Role.QUERY:
            changed[spec.name] = keep_rows(tensor, _spans(groups, query_heads * shape.head_dim))
        elif spec.role is Role.ATTENTION_OUTPUT and spec.part == "weight":
            changed[spec.name] = keep_columns(tensor, _spans(groups, query_heads * shape.head_dim))
    config = {
        "num_attention_heads": len(kept[0]) * query_heads,
        "num_key_value_heads": len(kept[0]),
        "head_dim": shape.head_dim,
    }
    return draft.changed(config, changed)


def _spans(groups: Indices, size: int) -> Indices:
    """Return the indices of blocks of `size` elements."""
    return (groups[:, None] * size + np.arange(size)).reshape(-1)
