"""Adapters: silent at first, and merged they answer as beside the matrix."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.train.trained import choose, finish


@pytest.fixture
def model(tiny_checkpoint: Path) -> object:
    return load_model(Checkpoint.open(tiny_checkpoint))


def answers(model: object) -> object:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([[5, 9, 300, 17, 42]])).logits


def test_merged_adapters_answer_as_unmerged_ones(model: object) -> None:
    import torch

    plain = answers(model)
    names = set(model.state_dict())
    trained = choose(model, "lora", rank=3)
    assert len(trained.parameters) == 2 * 7 * 2  # down and up, of 7 matrices in 2 layers
    assert torch.equal(answers(model), plain)
    with torch.no_grad():
        for name, parameter in trained.parameters.items():
            if name.endswith(".up"):
                parameter.normal_(0, 0.1)
    beside = answers(model)
    assert (beside - plain).abs().max() > 0.1
    finish(model, trained)
    torch.testing.assert_close(answers(model), beside, rtol=1e-4, atol=1e-4)
    assert set(model.state_dict()) == names


def test_an_adapter_is_the_product_that_the_paper_says(model: object) -> None:
    import torch

    layer = model.model.layers[1].mlp.down_proj
    before = layer.weight.detach().clone()
    trained = choose(model, "lora", rank=2)
    down, up = (trained.parameters[f"model.layers.1.mlp.down_proj.{n}"] for n in ("down", "up"))
    assert (tuple(down.shape), tuple(up.shape)) == ((2, before.shape[1]), (before.shape[0], 2))
    with torch.no_grad():
        up.normal_()
    wanted = before + 2 * up.detach() @ down.detach()
    finish(model, trained)
    torch.testing.assert_close(layer.weight.detach(), wanted)


def test_only_what_is_chosen_learns(model: object) -> None:
    trained = choose(model, "norms")
    assert len(trained.parameters) == 2 * 2 + 1
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == set(trained.parameters)
    everything = choose(model, "full")
    assert len(everything.parameters) == len(list(model.parameters()))  # a tied head once
