"""Packing: several examples in one row, none of which sees another.

Positions begin anew with each example. From that alone, and without a mask, transformers builds
causal attention within each example: see `find_packed_sequence_indices` in its masking_utils.
Padding is an example of its own that nothing is learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.train.order import blocks

if TYPE_CHECKING:
    import torch

ExampleOf = Callable[[int], tuple[NDArray[np.int64], NDArray[np.bool_]]]
"""Returns the token ids of an example, and which of them are learnt: both [length]."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows side by side: `token_ids` and `position_ids` int64, `learnt` bool, [rows, length].

    `learnt` is false for the first token of each example.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    learnt: torch.Tensor


def rows(batch: Sequence[int], lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Lay the examples of `batch` into rows of at most `row_tokens`: first fit, longest first.

    An example that is longer than that alone has a row of its own.
    """
    found: list[list[int]] = []
    free: list[int] = []
    for index in sorted(batch, key=lambda i: (-lengths[i], i)):
        place = next((n for n, left in enumerate(free) if left >= lengths[index]), len(free))
        if place == len(free):
            found.append([])
            free.append(row_tokens)
        found[place].append(index)
        free[place] -= lengths[index]
    return found


def layout(
    batch: Sequence[int], lengths: Sequence[int], row_tokens: int, most_tokens: int
) -> Iterator[tuple[list[list[int]], int]]:
    """Yield the examples of `batch` in blocks, each of at most `most_tokens` in all: its rows of
    at most `row_tokens`, see `rows`, and the length of the longest."""
    laid = rows(batch, lengths, row_tokens)
    filled = [sum(lengths[i] for i in row) for row in laid]
    for block in blocks(range(len(laid)), filled, most_tokens):
        yield [laid[n] for n in block], max(filled[n] for n in block)


def pack(laid: Sequence[Sequence[int]], example_of: ExampleOf, length: int, device: str) -> Packed:
    """Return the rows `laid`, each with examples one behind the other, padded to `length`."""
    import torch

    shape = (len(laid), length)
    token_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    learnt = np.zeros(shape, np.bool_)
    for row, indices in enumerate(laid):
        first = 0
        for index in indices:
            ids, is_learnt = example_of(index)
            end = first + len(ids)
            token_ids[row, first:end], learnt[row, first:end] = ids, is_learnt
            positions[row, first:end] = np.arange(len(ids))
            learnt[row, first] = False
            first = end
        positions[row, first:] = np.arange(length - first)
    tensors = (torch.from_numpy(array).to(device) for array in (token_ids, positions, learnt))
    return Packed(*tensors)
