"""The order of windows: every one once an epoch, the same again for the same seed."""

from __future__ import annotations

from itertools import islice

from edgekit.train.order import batches, blocks

LENGTHS = [192, 50, 192, 100, 7, 192, 192, 30, 64, 192]


def test_every_window_comes_once_before_any_comes_again() -> None:
    order = [i for batch in islice(batches(LENGTHS, 1, seed=3), 30) for i in batch]
    epochs = [order[first : first + 10] for first in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_has_the_tokens_that_were_asked_for_and_comes_again() -> None:
    first = list(islice(batches(LENGTHS, 300, seed=3), 12))
    for batch in first:
        tokens = [LENGTHS[i] for i in batch]
        assert sum(tokens) >= 300
        assert sum(tokens[:-1]) < 300
    assert first == list(islice(batches(LENGTHS, 300, seed=3), 12))
    assert first != list(islice(batches(LENGTHS, 300, seed=4), 12))


def test_blocks_are_small_enough_and_hardly_padded() -> None:
    windows = [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    found = list(blocks(windows, LENGTHS, 400))
    assert sorted(i for block in found for i in block) == list(range(10))
    for block in found:
        longest = max(LENGTHS[i] for i in block)
        assert longest * len(block) <= 400
        assert all(LENGTHS[i] >= 0.8 * longest for i in block)
    assert [0] in list(blocks([0, 4], LENGTHS, 10))
