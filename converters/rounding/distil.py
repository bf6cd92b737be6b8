"""Distilled scales: what stays in float is trained until the quantised model answers like the
original; the codes stay as they are.

The loss is KL(original || quantised) over the whole vocabulary, on the calibration text. Trained
are the block scales and offsets (EfficientQAT's second phase, Chen et al. 2024, arXiv 2407.11062)
and the gains of the norms, which scale the columns of the matrices that follow. It chooses no
codes and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.utils.parametrize
from numpy.typing import NDArray

from converters.reference import Window, side_by_side
from converters.rounding.grids import Blocks
from edgekit.progress import Progress

WARM_UP_STEPS = 10
GRADIENT_NORM = 1.0
AVERAGING = (0.9, 0.95)  # Adam's, for runs of a hundred steps


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast. Rates are relative to each scale or gain; the rate decays to zero."""

    steps: int = 120
    tokens_per_step: int = 512
    scale_rate: float = 1e-3
    norm_rate: float = 5e-4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Distilled:
    """What training changed: `blocks` of every matrix, `gains` of the norms in float32.

    `losses` holds the mean KL divergence of each step in nats.
    """

    blocks: dict[str, Blocks]
    gains: dict[str, NDArray[np.float32]]
    losses: list[float]


def distil(
    model: Any,
    blocks: Mapping[str, Blocks],
    windows: Sequence[Window],
    training: Training,
    progress: Progress,
) -> Distilled:
    """Train the scales of `blocks` and the norms of `model`, a transformers model in float32.

    `blocks` maps names of weights, such as `model.layers.3.mlp.up_proj.weight`, to their codes;
    those of the embedding and the head are computed with as they are. The model's own weights are
    the original; it is changed on the way and given up afterwards.
    """
    model.requires_grad_(False)
    answers = _hidden_states(model, windows)
    head = model.lm_head.weight.clone()
    linears = _quantise(model, blocks)
    gains = _gains(model)
    optimiser = _optimiser(linears, gains, training)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    losses: list[float] = []
    batches = _batches(windows, training)
    with progress.task("distilling the scales", training.steps, unit="steps") as advance:
        for step in range(training.steps):
            _set_rate(optimiser, step, training.steps)
            batch = next(batches)
            with torch.no_grad():
                wanted = (torch.cat([answers[i] for i in batch]) @ head.T).softmax(-1)
            hidden = _run(model, [windows[i] for i in batch])
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), wanted)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
            optimiser.step()
            losses.append(float(loss.detach()) - _entropy(wanted))
            advance(1)
    tuned = {name: linear.blocks() for name, linear in linears.items()}
    trained = {n: model.get_submodule(n.removesuffix(".weight")).weight for n in gains}
    return Distilled(tuned, {n: g.detach().numpy().copy() for n, g in trained.items()}, losses)


def _hidden_states(model: Any, windows: Sequence[Window]) -> list[torch.Tensor]:
    """Return what the original feeds its head, [tokens, hidden] for each window: far less to keep
    than logits."""
    with torch.no_grad():
        return [_run(model, [window]) for window in windows]


def _run(model: Any, windows: Sequence[Window]) -> torch.Tensor:
    """Return the last hidden state of every token of `windows`, [tokens, hidden]."""
    ids, filled = side_by_side(windows)
    states: torch.Tensor = model.model(ids, use_cache=False).last_hidden_state[filled]
    return states


def _batches(windows: Sequence[Window], training: Training) -> Iterator[list[int]]:
    """Yield the places of windows that make up a step, every window once before any twice."""
    rng = np.random.default_rng(training.seed)
    waiting: list[int] = []
    while True:
        batch: list[int] = []
        count = 0
        while count < training.tokens_per_step:
            if not waiting:
                waiting = [int(i) for i in rng.permutation(len(windows))]
            batch.append(waiting.pop())
            count += len(windows[batch[-1]].token_ids)
        yield batch


def _gains(model: Any) -> dict[str, RelativeGain]:
    """Let the model's norms have gains that can be trained; return them by name."""
    found = {}
    for name, parameter in list(model.named_parameters()):
        if name.endswith("norm.weight"):
            owner = model.get_submodule(name.removesuffix(".weight"))
            found[name] = RelativeGain(parameter)
            torch.nn.utils.parametrize.register_parametrization(owner, "weight", found[name])
    return found


class RelativeGain(torch.nn.Module):  # type: ignore[misc]
    """A norm's gains, trained by shares of themselves: they differ a hundredfold in one model."""

    def __init__(self, gains: torch.Tensor) -> None:
        super().__init__()
        self.change = torch.nn.Parameter(torch.zeros_like(gains))

    def forward(self, gains: torch.Tensor) -> torch.Tensor:
        """Return the gains as trained so far, of the same shape."""
        return gains * (1 + self.change)


def _optimiser(
    linears: Mapping[str, QuantisedLinear], gains: Mapping[str, RelativeGain], training: Training
) -> torch.optim.Optimizer:
    scales = [p for linear in linears.values() for p in linear.parameters()]
    groups = [
        {"params": scales, "lr": training.scale_rate, "rate": training.scale_rate},
        {
            "params": [gain.change for gain in gains.values()],
            "lr": training.norm_rate,
            "rate": training.norm_rate,
        },
    ]
    return torch.optim.Adam(groups, betas=AVERAGING)


def _set_rate(optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Warm up, then follow half a cosine down to zero."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    share = warm * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimiser.param_groups:
        group["lr"] = group["rate"] * share


def _entropy(chances: torch.Tensor) -> float:
    """Return the mean entropy of rows of probabilities: cross-entropy less this is KL."""
    return float(-torch.special.xlogy(chances, chances).sum(-1).mean())


def _quantise(model: Any, blocks: Mapping[str, Blocks]) -> dict[str, QuantisedLinear]:
    """Let `model` compute with `blocks`; return the layers' matrices, which can be trained."""
    linears = {}
    for name, matrix in blocks.items():
        if name.startswith("model.layers."):
            linears[name] = _replace_linear(model, name, matrix)
        else:
            owner = model.get_submodule(name.removesuffix(".weight"))
            owner.weight.copy_(torch.from_numpy(matrix.weights()))
    return linears


def _replace_linear(model: Any, name: str, blocks: Blocks) -> QuantisedLinear:
    """Put a linear layer that computes with `blocks` in the place of the one that holds `name`."""
    parent, _, leaf = name.removesuffix(".weight").rpartition(".")
    owner = model.get_submodule(parent)
    linear = QuantisedLinear(blocks, getattr(owner, leaf).bias)
    setattr(owner, leaf, linear)
    return linear


class QuantisedLinear(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """y = x (scale * (levels[codes] - zero_point) + offset)^T + bias; the scales and offsets can
    be trained."""

    def __init__(self, blocks: Blocks, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._blocks = blocks
        self._bias = bias
        self._levels = torch.from_numpy(blocks.centred().astype(np.int8))
        self._groups = blocks.codes.shape[1] // blocks.grid.group
        self._first_scales = torch.from_numpy(blocks.scales.astype(np.float32))
        self._inner_scales = _tensor(blocks.inner_scales)
        self._first_offsets = _tensor(blocks.offsets)
        self._inner_offsets = _tensor(blocks.inner_offsets)
        self.scale_change = torch.nn.Parameter(torch.zeros_like(self._first_scales))
        if self._first_offsets is not None:
            self.offset_change = torch.nn.Parameter(torch.zeros_like(self._first_offsets))

    def scales(self) -> torch.Tensor:
        """Return the scales as trained so far, float32 [rows, units]."""
        return self._first_scales * (1 + self.scale_change)

    def offsets(self) -> torch.Tensor | None:
        """Return the offsets as trained so far, float32 [rows, units], or None."""
        if self._first_offsets is None:
            return None
        # In steps of the grid: an offset may be zero, and a share of it would stay there.
        return self._first_offsets + self._first_scales.abs() * self.offset_change

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs for `inputs`, [..., columns]."""
        steps = _spread(self.scales(), self._inner_scales, self._groups)
        offsets = self.offsets()
        shifts = None if offsets is None else _spread(offsets, self._inner_offsets, self._groups)
        outputs: torch.Tensor = _Multiply.apply(inputs, self._levels, steps, shifts)
        return outputs if self._bias is None else outputs + self._bias

    def blocks(self) -> Blocks:
        """Return the same codes with the scales and offsets as trained so far."""
        offsets = self.offsets()
        rounded = None if offsets is None else _float16(offsets)
        return replace(self._blocks, scales=_float16(self.scales()), offsets=rounded)


class _Multiply(torch.autograd.Function):  # type: ignore[misc]
    """x W^T, which keeps the small levels for the way back, not the weights."""

    @staticmethod
    def forward(ctx: Any, inputs: Any, levels: Any, steps: Any, shifts: Any) -> Any:
        ctx.save_for_backward(inputs, levels, steps, shifts)
        return inputs @ _weights(levels, steps, shifts).T

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        inputs, levels, steps, shifts = ctx.saved_tensors
        before = None
        if ctx.needs_input_grad[0]:
            before = gradient @ _weights(levels, steps, shifts)
        products = gradient.flatten(0, -2).T @ inputs.flatten(0, -2)
        products = products.view(*steps.shape, -1)
        by_level = (products * levels.view(products.shape)).sum(-1)
        return before, None, by_level, None if shifts is None else products.sum(-1)


def _weights(
    levels: torch.Tensor, steps: torch.Tensor, shifts: torch.Tensor | None
) -> torch.Tensor:
    grouped = levels.view(*steps.shape, -1) * steps[..., None]
    if shifts is not None:
        grouped += shifts[..., None]
    return grouped.view(levels.shape)


def _spread(outer: torch.Tensor, inner: torch.Tensor | None, groups: int) -> torch.Tensor:
    values = outer.repeat_interleave(groups // outer.shape[1], dim=1)
    return values if inner is None else values * inner


def _tensor(values: NDArray[Any] | None) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values.astype(np.float32))


def _float16(values: torch.Tensor) -> NDArray[np.float16]:
    largest = torch.finfo(torch.float16).max
    rounded: NDArray[np.float16] = values.detach().clamp(-largest, largest).numpy()
    return rounded.astype(np.float16)
