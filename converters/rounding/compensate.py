"""Error-compensated rounding of one matrix: each code makes up for the errors of the others.

Rounding each weight to its nearest level ignores that inputs are correlated: an error in one
column can be undone by another. Here codes and scales descend on the layer's real error,
|target - Q X|^2 with the second moments of its inputs, column by column (coordinate descent, as
in QuantEase, Behdin et al. 2023, arXiv 2309.01885), from a start that solves for each column with
the best continuous answer of those not yet rounded (GPTQ, Frantar et al. 2022, arXiv 2210.17323).
It knows matrices only: no model, no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from converters.rounding.grids import BLOCK, Blocks

if TYPE_CHECKING:
    import torch

DAMPING = 0.01  # of the mean diagonal; keeps channels that the text hardly used near the original
FLOAT16_LARGEST, FLOAT16_SMALLEST = 65504.0, 6e-8


@dataclass(frozen=True, slots=True)
class Moments:
    """What a matrix multiplies, over all positions of the calibration text.

    `inputs`: float32 [columns, columns], the mean of x x^T where x is the input in the quantised
    model. `crossed`: the mean of y x^T where y is the same input in the unquantised model.
    """

    inputs: torch.Tensor
    crossed: torch.Tensor

    def damped(self, share: float = DAMPING) -> Moments:
        """Return the moments with noise of `share` of the mean channel's power on every input."""
        import torch

        noise = torch.eye(len(self.inputs)) * (self.inputs.diagonal().mean() * share)
        return Moments(self.inputs + noise, self.crossed + noise)


class Rounding:
    """One matrix on its way from a start to better codes and scales.

    `weights`: float32 [rows, columns], the unquantised matrix. `start`: its blocks as a plain
    rounding made them. `moments`: of its inputs, damped.
    """

    def __init__(self, weights: torch.Tensor, start: Blocks, moments: Moments) -> None:
        import torch

        grid = start.grid
        self._start = start
        self._group = grid.group
        self._levels = torch.tensor(grid.levels)
        self._edges = (self._levels[1:] + self._levels[:-1]) / 2
        self._inputs = moments.inputs
        self._target = weights @ moments.crossed
        self._codes = torch.from_numpy(start.codes.copy())
        self._steps = torch.from_numpy(start.steps().copy())
        shifts = start.shifts()
        self._shifts = torch.zeros_like(self._steps) if shifts is None else torch.from_numpy(shifts)
        self._has_offset = grid.has_offset
        self._free_scales = not grid.nested
        self._rounded = torch.from_numpy(start.weights())
        self._weights = weights

    def error(self) -> float:
        """Return the part of the layer's mean squared error that the codes decide.

        |Q X|^2 - 2 <target, Q>: its differences are those of the error.
        """
        product = self._rounded @ self._inputs
        return float(((product - 2 * self._target) * self._rounded).sum())

    def sweep(self, *, scales: bool = True) -> None:
        """Choose every code again, given all others; then each block's scale, given its codes.

        No step makes the error larger, but for the rounding of a scale to float16.
        """
        gradient = self._target - self._rounded @ self._inputs
        for first in range(0, self._rounded.shape[1], BLOCK):
            block = slice(first, first + BLOCK)
            before = self._rounded[:, block].clone()
            local = gradient[:, block].clone()
            self._descend(block, local)
            if scales and self._free_scales:
                self._fit_scales(block, local)
            gradient -= (self._rounded[:, block] - before) @ self._inputs[block]

    def _descend(self, block: slice, local: torch.Tensor) -> None:
        """Choose the codes of a block column by column; `local` is the error's gradient there."""
        inputs = self._inputs[block, block]
        power = inputs.diagonal()
        for column in range(BLOCK):
            place = block.start + column
            old = self._rounded[:, place]
            new = self._nearest(place, old + local[:, column] / power[column])
            local -= (new - old)[:, None] * inputs[column]
            self._rounded[:, place] = new

    def _nearest(self, place: int, values: torch.Tensor) -> torch.Tensor:
        """Store the codes nearest to `values`, one a row, for a column; return their weights."""
        import torch

        group = place // self._group
        step, shift = self._steps[:, group], self._shifts[:, group]
        units = torch.where(step == 0, 0, (values - shift) / step)
        codes = torch.bucketize(units, self._edges)
        self._codes[:, place] = codes.to(torch.uint8)
        return self._levels[codes] * step + shift

    def _fit_scales(self, block: slice, local: torch.Tensor) -> None:
        """Set the scales (and offsets) of a block to those of least error, given its codes."""
        import torch

        group = block.start // BLOCK
        levels = self._levels[self._codes[:, block].long()]
        inputs = self._inputs[block, block]
        along = levels @ inputs
        a = (along * levels).sum(1)
        b = (levels * local).sum(1)
        step, shift = self._steps[:, group], self._shifts[:, group]
        if not self._has_offset:
            change = torch.where(a > 0, b / a, 0)
            new_step, new_shift = _half(step + change), shift
        else:
            c, d, e = along.sum(1), inputs.sum(), local.sum(1)
            determinant = a * d - c * c
            sound = determinant > 1e-6 * a * d
            new_step = _half(step + torch.where(sound, (b * d - c * e) / determinant, 0))
            new_shift = _half(shift + torch.where(sound, (a * e - b * c) / determinant, 0))
        self._steps[:, group], self._shifts[:, group] = new_step, new_shift
        weights = levels * new_step[:, None] + new_shift[:, None]
        self._rounded[:, block] = weights

    def compensate(self, order: bool = True) -> None:
        """Choose all codes once, each error spread over the columns not yet rounded (GPTQ).

        Columns of large power come first (`order`), which the fixed scales allow.
        """
        import torch

        columns = self._rounded.shape[1]
        rank = torch.arange(columns)
        if order:
            rank = self._inputs.diagonal().argsort(descending=True)
        inverse = torch.linalg.inv(self._inputs[rank][:, rank].double())
        factor = torch.linalg.cholesky(inverse, upper=True).float()
        wanted = torch.linalg.solve(self._inputs.double(), self._target.double().T).T.float()
        wanted = wanted[:, rank]
        for first in range(0, columns, BLOCK):
            end = min(first + BLOCK, columns)
            errors = torch.zeros(len(wanted), end - first)
            for column in range(first, end):
                place = int(rank[column])
                new = self._nearest(place, wanted[:, column])
                self._rounded[:, place] = new
                error = (wanted[:, column] - new) / factor[column, column]
                wanted[:, column:end] -= error[:, None] * factor[column, column:end]
                errors[:, column - first] = error
            wanted[:, end:] -= errors @ factor[first:end, end:]

    def blocks(self) -> Blocks:
        """Return the codes and scales as they are now."""
        codes = self._codes.numpy()
        if not self._free_scales:
            return replace(self._start, codes=codes)
        scales = self._steps.numpy().astype(np.float16)
        offsets = self._shifts.numpy().astype(np.float16) if self._has_offset else None
        return replace(self._start, codes=codes, scales=scales, offsets=offsets)

    def weights(self) -> NDArray[np.float32]:
        """Return the weights as they are now, float32 [rows, columns]."""
        rounded: NDArray[np.float32] = self._rounded.numpy()
        return rounded


def _half(values: torch.Tensor) -> torch.Tensor:
    """Round to float16, within its range."""
    import torch

    return values.clamp(-FLOAT16_LARGEST, FLOAT16_LARGEST).to(torch.float16).float()
