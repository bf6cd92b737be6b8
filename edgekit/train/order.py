"""In which order windows of text are trained on, and how they are laid side by side.

The order follows from a seed alone, so that a resumed run goes on where it was without keeping
the state of a generator. It knows lengths, no tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

LEAST_FILLED = 0.8  # the shortest window of a block over its longest: padding is computed too


def batches(lengths: Sequence[int], batch_tokens: int, seed: int) -> Iterator[list[int]]:
    """Yield, without end, the windows of each step: indices of at least `batch_tokens` tokens.

    Every window comes once before any comes again; each time in another order.
    """
    batch: list[int] = []
    tokens = 0
    for window in _endless(len(lengths), seed):
        batch.append(window)
        tokens += int(lengths[window])
        if tokens >= batch_tokens:
            yield batch
            batch, tokens = [], 0


def blocks(windows: Sequence[int], lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Cut `windows` into blocks of similar lengths, each padded to at most `most_tokens`.

    A window that is longer than that alone is a block of its own.
    """
    block: list[int] = []
    for window in sorted(windows, key=lambda i: (-lengths[i], i)):
        longest = lengths[block[0]] if block else 0
        is_full = (len(block) + 1) * longest > most_tokens
        if block and (is_full or lengths[window] < LEAST_FILLED * longest):
            yield block
            block = []
        block.append(window)
    if block:
        yield block


def _endless(count: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from map(int, np.random.default_rng([seed, epoch]).permutation(count))
        epoch += 1
