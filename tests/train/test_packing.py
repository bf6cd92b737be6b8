"""Packed examples see nothing of each other, and the loss is that of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.train.packing import layout, pack, rows
from edgekit.train.supervised import summed_loss

EXAMPLES = [
    ([5, 9, 300, 17, 42, 8], [False, False, True, True, False, True]),
    ([7], [True]),
    ([300, 301, 11], [True, True, True]),
    ([9, 8, 7, 6], [False, True, False, True]),
]
LENGTHS = [len(ids) for ids, _ in EXAMPLES]


def example(index: int) -> tuple[Any, Any]:
    ids, learnt = EXAMPLES[index]
    return np.array(ids, np.int64), np.array(learnt)


@pytest.fixture
def model(tiny_checkpoint: Path) -> Any:
    return load_model(Checkpoint.open(tiny_checkpoint))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_packed_example_answers_as_it_does_alone(
    make_checkpoint: Callable[..., Path], architecture: str
) -> None:
    import torch

    model = load_model(Checkpoint.open(make_checkpoint(architecture)))
    block = pack([[0, 1, 2], [3]], example, 12, "cpu")
    with torch.inference_mode():
        packed = model(block.token_ids, position_ids=block.position_ids, use_cache=False).logits
        for row, first, index in ((0, 0, 0), (0, 6, 1), (0, 7, 2), (1, 0, 3)):
            ids = torch.tensor([EXAMPLES[index][0]])
            alone = model(ids, use_cache=False).logits[0]
            found = packed[row, first : first + ids.shape[1]]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


def test_nothing_of_one_example_reaches_another(model: Any) -> None:
    import torch

    block = pack([[0, 1, 2]], example, 12, "cpu")
    changed = block.token_ids.clone()
    changed[0, :6] = torch.tensor([1, 2, 3, 4, 5, 6])
    with torch.inference_mode():
        one, other = (
            model(ids, position_ids=block.position_ids, use_cache=False).logits[0, 6:]
            for ids in (block.token_ids, changed)
        )
    assert torch.equal(one, other)


def test_loss_and_gradient_are_those_of_transformers_with_labels(model: Any) -> None:
    import torch

    targets = sum(sum(learnt[1:]) for _, learnt in EXAMPLES)
    for laid, length in layout(range(4), LENGTHS, 8, 16):
        block = pack(laid, example, length, "cpu")
        logits = model(block.token_ids, position_ids=block.position_ids, use_cache=False).logits
        (summed_loss(logits, block) / targets).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for ids, learnt in EXAMPLES:  # one by one, by transformers' own loss
        labels = [
            token if is_learnt else -100 for token, is_learnt in zip(ids, learnt, strict=True)
        ]
        count = sum(learnt[1:])
        if count:
            found = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss * count / targets
            found.backward()
            total += float(found.detach())
    assert total > 3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_sum_of_the_loss_is_the_one_by_hand() -> None:
    import torch

    logits = torch.randn(1, 12, 400, generator=torch.Generator().manual_seed(0))
    block = pack([[0, 1, 2]], example, 12, "cpu")
    wanted = sum(
        -float(logits[0, place - 1].double().log_softmax(-1)[token])
        for place, token in ((2, 300), (3, 17), (5, 8), (8, 301), (9, 11))
    )
    assert float(summed_loss(logits, block)) == pytest.approx(wanted, rel=1e-5)


def test_rows_are_filled_and_each_example_is_laid_once() -> None:
    lengths = [5, 9, 1, 4, 20, 3, 6, 2]
    laid = rows(range(8), lengths, 10)
    assert sorted(i for row in laid for i in row) == list(range(8))
    assert all(sum(lengths[i] for i in row) <= 10 or row == [4] for row in laid)
    assert len(laid) == 4
    assert laid == rows(list(range(8))[::-1], lengths, 10)
