"""Sparsity: single weights of the layers' matrices set to zero, as a share of them or n of m.

It makes no file smaller and no engine of edgekit faster: neither stores nor multiplies sparsely.
It is here to be measured. Magnitude: the smallest weights of a matrix. Wanda (Sun et al. 2023,
arXiv 2306.11695): in each output row, the smallest |weight| times the norm of its input channel,
layer after layer, each measured behind the pruned layers before it. Neither moves other weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converters.architectures import ModelShape, TensorSpec
from converters.pruning.draft import Draft, with_zeros
from converters.pruning.running import Ids, Trace, listening, step, trace
from edgekit.errors import UsageError
from edgekit.progress import Progress

if TYPE_CHECKING:
    import torch

Method = Literal["magnitude", "wanda"]
Masks = dict[str, np.ndarray[Any, np.dtype[np.bool_]]]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which share of the weights becomes zero; with `block`, in every `block` of a row."""

    share: float
    block: int | None = None

    def __str__(self) -> str:
        if self.block is None:
            return f"{self.share:g}"
        return f"{self.block - round(self.share * self.block)}:{self.block}"


def parse_pattern(text: str, shape: ModelShape) -> Pattern:
    """Return what "0.5" or "2:4" (2 of 4 neighbours in a row stay) means. Raises UsageError."""
    if match := re.fullmatch(r"(\d{1,3}):(\d{1,3})", text):
        kept, block = int(match.group(1)), int(match.group(2))
        if not 0 < kept < block:
            raise UsageError(f"--sparsity {text} keeps {kept} weights of {block}", "write 2:4")
        for spec in _matrices(shape):
            if spec.shape[1] % block:
                raise UsageError(
                    f"--sparsity {text}: a row of {spec.name} has {spec.shape[1]} weights, "
                    f"not a multiple of {block}"
                )
        return Pattern((block - kept) / block, block)
    if re.fullmatch(r"\d*\.?\d+", text) and 0 < float(text) < 1:
        return Pattern(float(text))
    raise UsageError(f"--sparsity {text!r:.40} is no share of the weights", "write 0.5, or 2:4")


def choose(
    model: Any,
    shape: ModelShape,
    texts: Sequence[Ids],
    pattern: Pattern,
    method: Method,
    progress: Progress,
) -> Masks:
    """Return which weights of each matrix of `shape` stay: bool arrays of its shape.

    The transformers `model` is changed on the way: do not use it afterwards.
    """
    import torch

    masks: Masks = {}
    with (
        torch.inference_mode(),
        progress.task("choosing weights to zero", shape.layers, unit="layers") as advance,
    ):
        traces = [trace(model, ids) for ids in texts] if method == "wanda" else []
        for number, layer in enumerate(model.model.layers):
            specs = [spec for spec in _matrices(shape) if spec.layer == number]
            modules = [model.get_submodule(spec.name.removesuffix(".weight")) for spec in specs]
            norms = _input_norms(layer, number, modules, traces)
            for spec, module, norm in zip(specs, modules, norms, strict=True):
                kept = _kept(module.weight.abs(), norm, pattern)
                module.weight.mul_(kept)
                masks[spec.name] = kept.numpy()
            for one in traces:
                one.states[number + 1] = step(layer, one.states[number], one.arguments[number])
            advance(1)
    return masks


def zero(draft: Draft, masks: Masks) -> Draft:
    """Return the draft with zeros where `masks` are false."""
    changed = {name: with_zeros(draft.weights[name], kept) for name, kept in masks.items()}
    return draft.changed({}, changed)


def zeros(masks: Masks) -> float:
    """Return the share of zeros among the weights that `masks` are about."""
    return 1.0 - sum(int(m.sum()) for m in masks.values()) / sum(m.size for m in masks.values())


def _matrices(shape: ModelShape) -> list[TensorSpec]:
    return [spec for spec in shape.tensors() if spec.layer is not None and len(spec.shape) == 2]


def _input_norms(
    layer: Any, number: int, modules: Sequence[Any], traces: Sequence[Trace]
) -> list[torch.Tensor | None]:
    """Return the norm of each input channel of `modules`; None where there are no texts."""
    import torch

    if not traces:
        return [None] * len(modules)
    sums = [torch.zeros(module.weight.shape[1], dtype=torch.float64) for module in modules]

    def hear(place: int, inputs: torch.Tensor) -> None:
        sums[place] += inputs.double().square().sum(0)

    with listening(modules, hear):
        for one in traces:
            step(layer, one.states[number], one.arguments[number])
    return [total.sqrt().float() for total in sums]


def _kept(weights: torch.Tensor, norm: torch.Tensor | None, pattern: Pattern) -> torch.Tensor:
    """Return which of the absolute `weights`, [rows, columns], stay: bool, of the same shape."""
    import torch

    scores = weights if norm is None else weights * norm
    if pattern.block is not None:
        groups = scores.reshape(len(scores), -1, pattern.block)
    elif norm is None:
        groups = scores.reshape(1, -1)  # magnitudes compare across the whole matrix
    else:
        groups = scores
    least = groups.topk(round(groups.shape[-1] * pattern.share), largest=False).indices
    kept = torch.ones(groups.shape, dtype=torch.bool)
    return kept.scatter_(-1, least, False).reshape(weights.shape)
