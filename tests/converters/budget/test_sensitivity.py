"""Sensitivity against the divergence itself, measured with one matrix disturbed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.architectures import describe
from converters.budget.sensitivity import measure_sensitivity
from converters.checkpoint import Checkpoint
from converters.importance import collect
from converters.reference import Window, load_model
from edgekit.progress import NoProgress

NAMES = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.self_attn.o_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.embed_tokens.weight",
)


def windows() -> tuple[Window, ...]:
    rng = np.random.default_rng(5)
    return tuple(Window("x", tuple(map(int, rng.integers(3, 400, 64)))) for _ in range(24))


def log_chances(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([window.token_ids for window in windows()])
        return model(ids).logits.log_softmax(-1).flatten(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_divergence(tied: bool, make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint("llama", tie_word_embeddings=tied))
    model = load_model(checkpoint)
    shape = describe(checkpoint)
    found = measure_sensitivity(model, shape, windows(), NoProgress())
    wanted = log_chances(model)
    rng = np.random.default_rng(0)
    for name in (*NAMES, "lm_head.weight")[: 6 if tied else 7]:
        weight = model.get_parameter(name)
        errors = 0.02 * float(weight.std()) * rng.standard_normal(weight.shape).astype(np.float32)
        weight.data += torch.from_numpy(errors)
        changed = log_chances(model)
        weight.data -= torch.from_numpy(errors)
        divergence = float((wanted.exp() * (wanted - changed)).sum(-1).mean())
        assert found[name].loss(errors) == pytest.approx(divergence, rel=0.35), name
        # every other row stands for all
        assert found[name].loss(errors[1::2], 1, 2) == pytest.approx(divergence, rel=0.5), name


def test_the_columns_are_the_importance(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    shape = describe(checkpoint)
    found = measure_sensitivity(load_model(checkpoint), shape, windows(), NoProgress())
    ids = [window.token_ids for window in windows()]
    importance = collect(checkpoint, shape, ids, "a test", NoProgress())
    assert set(found) == set(importance.channels)
    for name, channels in importance.channels.items():
        np.testing.assert_allclose(found[name].columns, channels, rtol=1e-4)
