"""Distilled scales: what stays in float is trained until the quantised model answers like the
original; the codes stay as they are.

The loss is KL(original || quantised) over the whole vocabulary, on the calibration text. Trained
are the block scales and offsets (EfficientQAT's second phase, Chen et al. 2024, arXiv 2407.11062)
and the gains of the norms, which scale the columns of the matrices that follow. It chooses no
codes and writes no file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.utils.parametrize
from numpy.typing import NDArray

from converters.reference import Window, side_by_side
from converters.rounding.grids import Blocks
from edgekit.adam import adam_memory, restore_adam
from edgekit.progress import Progress
from edgekit.tensors_file import load_tensors, save_tensors

WARM_UP_STEPS = 10
GRADIENT_NORM = 1.0
SAVE_S = 60.0
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
    state_file: Path | None = None,
) -> Distilled:
    """Train the scales of `blocks` and the norms of `model`, a transformers model in float32.

    `blocks` maps names of weights, such as `model.layers.3.mlp.up_proj.weight`, to their codes;
    those of the embedding and the head are computed with as they are. The model's own weights are
    the original; it is changed on the way and given up afterwards. In `state_file` an interrupted
    run is kept, and goes on from there to the same result. Raises GateError for a full disk.
    """
    model.requires_grad_(False)
    answers = _hidden_states(model, windows)
    head = model.lm_head.weight.clone()
    linears = _quantise(model, blocks)
    gains = _gains(model)
    run = _Descent(linears, gains, training)
    losses = run.resume(state_file)
    steps = range(len(losses), training.steps)
    batches = islice(_batches(windows, training), steps.start, steps.stop)
    with progress.task("distilling the scales", len(steps), unit="steps") as advance:
        for step, batch in zip(steps, batches, strict=True):
            with torch.no_grad():
                wanted = (torch.cat([answers[i] for i in batch]) @ head.T).softmax(-1)
            hidden = _last_states(model, [windows[i] for i in batch])
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), wanted)
            run.step(loss, _rate_share(step, training.steps))
            losses.append(float(loss.detach()) - _entropy(wanted))
            run.save(state_file, losses)
            advance(1)
    tuned = {name: linear.blocks() for name, linear in linears.items()}
    trained = {n: model.get_submodule(n.removesuffix(".weight")).weight for n in gains}
    return Distilled(tuned, {n: g.detach().numpy().copy() for n, g in trained.items()}, losses)


def _hidden_states(model: Any, windows: Sequence[Window]) -> list[torch.Tensor]:
    """Return what the original feeds its head, [tokens, hidden] for each window: far less to keep
    than logits."""
    with torch.no_grad():
        return [_last_states(model, [window]) for window in windows]


def _last_states(model: Any, windows: Sequence[Window]) -> torch.Tensor:
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


class _Descent:
    """What is trained, with its optimiser, and its state on disk."""

    def __init__(
        self,
        linears: Mapping[str, QuantisedLinear],
        gains: Mapping[str, RelativeGain],
        training: Training,
    ) -> None:
        scales = {
            f"{name}.{part}": parameter
            for name, linear in linears.items()
            for part, parameter in linear.named_parameters()
        }
        norms = {name: gain.change for name, gain in gains.items()}
        self._parameters = scales | norms
        self._rates = (training.scale_rate, training.norm_rate)
        groups = [{"params": list(part.values())} for part in (scales, norms)]
        self._optimiser = torch.optim.Adam(groups, betas=AVERAGING)
        self._saved = time.monotonic()

    def step(self, loss: torch.Tensor, rate_share: float) -> None:
        """Go one step down `loss`, at a share of the full rates."""
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * rate_share
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), GRADIENT_NORM)
        self._optimiser.step()

    def resume(self, file: Path | None) -> list[float]:
        """Go on from the state in `file`, if there is a sound one; return the losses so far."""
        found = None if file is None else load_tensors(file)
        if found is None:
            return []
        tensors, losses = found
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[f"value.{name}"])
        restore_adam(self._optimiser, self._parameters, tensors)
        return list(losses)

    def save(self, file: Path | None, losses: Sequence[float]) -> None:
        """Write the state to `file`, at most every SAVE_S seconds. Raises GateError."""
        if file is None or time.monotonic() - self._saved < SAVE_S:
            return
        values = {f"value.{name}": value for name, value in self._parameters.items()}
        save_tensors(file, values | adam_memory(self._optimiser, self._parameters), list(losses))
        self._saved = time.monotonic()


def _rate_share(step: int, steps: int) -> float:
    """Return the share of the full rate: it warms up, then follows half a cosine down to zero."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


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
