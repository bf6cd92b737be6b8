"""Frozen parts do not move, and a part that there is not is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.errors import InputError
from edgekit.train.frozen import learning
from edgekit.train.memory import checkpoint_gradients
from edgekit.train.trained import choose

NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    *(f"model.layers.{n}.self_attn.q_proj.weight" for n in range(12)),
    "model.norm.weight",
]


@pytest.mark.parametrize(
    ("parts", "layers", "outside"),
    [
        (["layers.0-9"], {10, 11}, {"model.embed_tokens.weight", "model.norm.weight"}),
        (["layers.11", "embeddings"], set(range(11)), {"model.norm.weight"}),
        (["layers.1-11", "norm"], {0}, {"model.embed_tokens.weight"}),
    ],
)
def test_parts_are_told_by_their_names(
    parts: list[str], layers: set[int], outside: set[str]
) -> None:
    learns = learning(parts, NAMES)
    assert {n for n in range(12) if learns(f"model.layers.{n}.self_attn.q_proj")} == layers
    assert {n for n in NAMES if "layers" not in n and learns(n)} == outside
    assert learns("model.layers.0.input_layernorm.weight") == (0 in layers)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("layers.12", "names 'layers.12', and the model has the layers 0 to 11"),
        ("layers.3-12", "the layers 0 to 11"),
        ("layers.5-3", "the layers 0 to 11"),
        ("layers.99999999", "none of: embeddings, head, norm, layers.3"),
        ("layer.1", "none of"),
        ("head", "does not have: its head is tied"),
    ],
)
def test_a_part_that_there_is_not_is_named(part: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        learning([part], NAMES)


def test_a_model_is_not_frozen_whole() -> None:
    with pytest.raises(InputError, match="nothing is left to learn"):
        learning(["embeddings", "norm", "layers.0-11"], NAMES)


@pytest.fixture
def model(tiny_checkpoint: Path) -> Any:
    return load_model(Checkpoint.open(tiny_checkpoint))


def names_of(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_what_is_frozen_is_not_trained(model: Any) -> None:
    names = names_of(model)
    full = choose(model, "full", learns=learning(["embeddings", "layers.0"], names))
    assert set(full.parameters) == {n for n in names if "layers.1." in n} | {"model.norm.weight"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(full.parameters)
    norms = choose(model, "norms", learns=learning(["layers.1"], names))
    assert len(norms.parameters) == 2 + 1
    adapters = choose(model, "lora", 2, learns=learning(["layers.0"], names))
    assert len(adapters.parameters) == 7 * 2
    assert all(".layers.1." in name for name in adapters.parameters)


def gradients(model: Any) -> dict[str, Any]:
    import torch

    ids = torch.arange(40)[None] % 37
    model(ids, labels=ids, use_cache=False).loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointed_gradients_are_the_same(
    model: Any, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    trained = choose(model, method, 2)
    if method == "lora":
        with torch.no_grad():
            for parameter in trained.parameters.values():
                parameter.add_(0.01)
    wanted = gradients(model)
    checkpoint_gradients(model)
    layer, calls = model.model.layers[1], []
    monkeypatch.setattr(layer, "forward", counted(layer.forward, calls))
    found = gradients(model)
    assert len(calls) == 2  # forwards, and once more on the way back
    assert found.keys() == wanted.keys() == trained.parameters.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def counted(forward: Any, calls: list[int]) -> Any:
    def call(*args: Any, **named: Any) -> Any:
        calls.append(1)
        return forward(*args, **named)

    return call


def test_dropout_stays_asleep(model: Any) -> None:
    checkpoint_gradients(model)
    assert not model.model.layers[0].self_attn.training
