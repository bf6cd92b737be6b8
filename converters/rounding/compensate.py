"""Error-compensated rounding of one matrix: each code makes up for the errors of the others.

Rounding each weight to its nearest level ignores that inputs are correlated: an error in one
column can be undone by another. GPTQ (Frantar et al. 2022, arXiv 2210.17323) spreads each error
over the columns not yet rounded; then codes and scales descend on the real error of the outputs,
|(W - Q) X|^2, column by column and block by block (coordinate descent, as in QuantEase, Behdin et
al. 2023, arXiv 2309.01885). It knows matrices only: no model, no file.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from converters.rounding.grids import BLOCK, Blocks

DAMPING = 0.01  # of the mean diagonal; keeps channels that the text hardly used near the original
FLOAT16_LARGEST = 65504.0
TINY = 1e-12  # for inputs that are zero throughout
SINGULAR = 1e-6  # below this share of its terms, a determinant is rounding error
Floats = NDArray[np.float32]


def damped(moments: torch.Tensor) -> torch.Tensor:
    """Return second moments, [columns, columns], as if every input had a little noise besides."""
    noise = moments.diagonal().mean() * DAMPING + TINY
    return moments + torch.eye(len(moments)) * noise


class Rounding:
    """One matrix, or several that share their inputs, on the way to better codes and scales.

    `weights`: float32 [rows, columns], unquantised. `start`: the same as plainly rounded.
    `moments`: the mean of x x^T over its inputs x, float32 [columns, columns], damped. Inside,
    everything lies with the columns first, so that a column, which is worked on as a whole, is
    contiguous.
    """

    def __init__(self, weights: torch.Tensor, start: Blocks, moments: torch.Tensor) -> None:
        grid = start.grid
        self._start = start
        self._group = grid.group
        self._levels = np.array(grid.levels, dtype=np.float32)
        self._table, self._lowest = _nearest_table(self._levels)
        self._inputs = moments.numpy()
        self._weights = np.ascontiguousarray(weights.detach().numpy().T)
        self._codes = np.ascontiguousarray(start.codes.T)
        self._steps = np.ascontiguousarray(start.steps().T)
        shifts = start.shifts()
        self._shifts = np.zeros_like(self._steps) if shifts is None else shifts.T.copy()
        self._inverse_steps = _inverse(self._steps)
        zeros = start.zero_points
        self._zeros = np.zeros_like(self._steps) if zeros is None else zeros.T.astype(np.float32)
        self._rounded = np.ascontiguousarray(start.weights().T)

    def error(self) -> float:
        """Return the mean squared error of the outputs, summed over the rows."""
        errors = self._rounded - self._weights
        return float((_product(self._inputs, errors) * errors).sum(dtype=np.float64))

    def sweep(self) -> None:
        """Choose every code again, given all others; then each block's scale, given its codes.

        No step makes the error larger, but for the rounding of a scale to float16. The scales of
        nested grids stay as they are.
        """
        gradient = _product(self._inputs, self._weights - self._rounded)
        for first in range(0, len(self._rounded), BLOCK):
            block = slice(first, first + BLOCK)
            before, local = self._rounded[block].copy(), gradient[block].copy()
            self._descend(block, local)
            if not self._start.grid.nested:
                self._fit_scales(block, local)
            gradient -= _product(self._inputs[:, block], self._rounded[block] - before)

    def _descend(self, block: slice, local: Floats) -> None:
        """Choose the codes of a block column by column; `local` is the error's gradient there."""
        inputs = self._inputs[block, block]
        for column in range(BLOCK):
            place = block.start + column
            old = self._rounded[place]
            new = self._nearest(place, old + local[column] / inputs[column, column])
            local -= inputs[column][:, None] * (new - old)
            self._rounded[place] = new

    def _nearest(self, place: int, values: Floats) -> Floats:
        """Store the codes nearest to `values`, one a row, for a column; return their weights."""
        group = place // self._group
        zeros = self._zeros[group]
        units = (values - self._shifts[group]) * self._inverse_steps[group] + zeros
        halves = np.floor(units + units) - self._lowest
        np.clip(halves, 0, len(self._table) - 1, out=halves)
        codes = self._table[halves.astype(np.intp)]
        self._codes[place] = codes
        weights: Floats = (self._levels[codes] - zeros) * self._steps[group] + self._shifts[group]
        return weights

    def _fit_scales(self, block: slice, local: Floats) -> None:
        """Set the scales (and offsets) of a block to those of least error, given its codes."""
        group = block.start // BLOCK
        levels = self._levels[self._codes[block]] - self._zeros[group]
        inputs = self._inputs[block, block]
        along = _product(inputs, levels)
        a, b = (along * levels).sum(0), (levels * local).sum(0)
        if not self._start.grid.has_offset:
            change, shift_change = (
                np.divide(b, a, out=np.zeros_like(a), where=a > 0),
                np.zeros_like(a),
            )
        else:
            c, d, e = along.sum(0), inputs.sum(), local.sum(0)
            determinant = a * d - c * c
            sound = determinant > SINGULAR * a * d
            divisor = np.where(sound, determinant, 1)
            change = np.where(sound, (b * d - c * e) / divisor, 0)
            shift_change = np.where(sound, (a * e - b * c) / divisor, 0)
        self._steps[group] = _half(self._steps[group] + change)
        self._shifts[group] = _half(self._shifts[group] + shift_change)
        self._inverse_steps[group] = _inverse(self._steps[group])
        self._rounded[block] = levels * self._steps[group] + self._shifts[group]

    def compensate(self) -> None:
        """Choose all codes once, each error spread over the columns not yet rounded (GPTQ).

        Columns of large power come first, which the fixed scales allow.
        """
        columns = len(self._rounded)
        rank = np.argsort(-self._inputs.diagonal(), kind="stable")
        inputs = torch.from_numpy(self._inputs[np.ix_(rank, rank)]).double()
        factor = torch.linalg.cholesky(torch.linalg.inv(inputs), upper=True).float().numpy()
        wanted = self._weights[rank]
        for first in range(0, columns, BLOCK):
            end = min(first + BLOCK, columns)
            errors = np.zeros((end - first, wanted.shape[1]), dtype=np.float32)
            for column in range(first, end):
                place = int(rank[column])
                new = self._rounded[place] = self._nearest(place, wanted[column])
                error = errors[column - first] = (wanted[column] - new) / factor[column, column]
                wanted[column:end] -= factor[column, column:end, None] * error
            wanted[end:] -= _product(factor[first:end, end:].T, errors)

    def blocks(self) -> Blocks:
        """Return the codes and scales as they are now."""
        codes = np.ascontiguousarray(self._codes.T)
        if self._start.grid.nested:
            return replace(self._start, codes=codes)
        scales, offsets = (v.T.astype(np.float16) for v in (self._steps, self._shifts))
        has_offset = self._start.grid.has_offset
        return replace(
            self._start, codes=codes, scales=scales, offsets=offsets if has_offset else None
        )

    def weights(self) -> Floats:
        """Return the weights as they are now, float32 [rows, columns]."""
        return np.ascontiguousarray(self._rounded.T)


def _nearest_table(levels: Floats) -> tuple[NDArray[np.uint8], int]:
    """Return the code nearest to any multiple of a half, and twice the value it begins with.

    The levels are whole numbers, so that no border between two codes lies elsewhere.
    """
    low, high = 2 * int(levels[0]), 2 * int(levels[-1])
    middles = np.arange(low, high + 1) / 2 + 0.25
    borders = (levels[1:] + levels[:-1]) / 2
    return np.searchsorted(borders, middles).astype(np.uint8), low


def _product(left: Floats, right: Floats) -> Floats:
    """Multiply with torch: its library is the faster one in some installations of numpy."""
    left, right = (np.ascontiguousarray(v, dtype=np.float32) for v in (left, right))
    result: Floats = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
    return result


def _inverse(steps: Floats) -> Floats:
    """Return 1 / steps; a step of 0 gives 0, and so the code of the level nearest to zero."""
    return np.divide(1, steps, out=np.zeros_like(steps), where=steps != 0)


def _half(values: Floats) -> Floats:
    """Round to float16, within its range."""
    return values.clip(-FLOAT16_LARGEST, FLOAT16_LARGEST).astype(np.float16).astype(np.float32)
