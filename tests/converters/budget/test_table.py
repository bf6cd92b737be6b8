"""The table of choices against the files: its bytes, its losses, and what is really measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.architectures import describe
from converters.budget.allocate import allocate
from converters.budget.measure import Measurer
from converters.budget.sensitivity import measure_sensitivity
from converters.budget.table import TYPES, Table, measure_losses, tabulate
from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.importance import Importance, collect
from converters.recipe import Recipe
from converters.reference import Window, load_model
from edgekit.artifact import Format
from edgekit.progress import NoProgress
from runtimes.load import load


def windows(seed: int, count: int) -> tuple[Window, ...]:
    rng = np.random.default_rng(seed)
    return tuple(Window("x", tuple(map(int, rng.integers(3, 400, 48)))) for _ in range(count))


def importance_of(checkpoint: Checkpoint) -> Importance:
    ids = [window.token_ids for window in windows(0, 40)]
    return collect(checkpoint, describe(checkpoint), ids, "a test", NoProgress())


def table_of(checkpoint: Checkpoint, format_name: Format) -> Table:
    return _table_of(checkpoint.path, format_name)


@cache  # what it holds is only read
def _table_of(folder: Path, format_name: Format) -> Table:
    checkpoint = Checkpoint.open(folder)
    shape = describe(checkpoint)
    found = measure_sensitivity(load_model(checkpoint), shape, windows(0, 40), NoProgress())
    importance = importance_of(checkpoint)
    losses = measure_losses(checkpoint, shape, format_name, importance, found, NoProgress())
    return tabulate(shape, format_name, losses, {})


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["gguf", "onnx"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_bytes_are_those_of_the_plan(
    format_name: Format, tied: bool, make_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint("llama", tie_word_embeddings=tied))
    table = table_of(checkpoint, format_name)
    choice = np.array([i % len(table.types) for i in range(len(table.specs))])
    recipe = table.recipe("mixed", choice)
    planned = plan(checkpoint, recipe, importance_of(checkpoint))
    matrices = sum(t.bytes for t in planned.tensors if len(t.shape) == 2 and t.type in table.types)
    stacked = format_name == "onnx"  # q, k and v may lie in one tensor
    assert stacked or matrices == table.options.size(choice)
    other = table.recipe("small", np.zeros_like(choice))
    smaller = plan(checkpoint, other, importance_of(checkpoint))
    saved = table.options.size(choice) - table.options.size(np.zeros_like(choice))
    assert planned.tensor_bytes - smaller.tensor_bytes == saved
    # an ONNX graph has more nodes for unlike types
    assert planned.file_bytes - smaller.file_bytes == pytest.approx(saved, rel=0.01, abs=10_000)
    assert not planned.substitutions


@pytest.mark.slow
def test_more_bits_lose_less(tiny_checkpoint: Path) -> None:
    table = table_of(Checkpoint.open(tiny_checkpoint), "gguf")
    losses = dict(zip(TYPES["gguf"], table.options.losses.sum(axis=0), strict=True))
    assert losses["f16"] < losses["q8_0"] < losses["q6_k"] < losses["q5_k"] < losses["q4_k"]
    assert losses["q4_k"] < losses["q3_k"]


def test_a_shape_forbids_types(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint("llama", hidden_size=96, intermediate_size=512)
    table = table_of(Checkpoint.open(folder), "gguf")
    forbidden = ~np.isfinite(table.options.losses)
    for spec, row in zip(table.specs, forbidden, strict=True):
        named = {kind for kind, no in zip(table.types, row, strict=True) if no}
        allowed_anywhere = spec.shape[1] % 256 == 0
        assert named == (set() if allowed_anywhere else {"q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k"})


@pytest.mark.parametrize("format_name", ["gguf", "onnx"])
def test_what_is_measured_is_what_the_engine_answers(
    format_name: Format, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    table = table_of(checkpoint, format_name)
    smallest = table.options.size(np.zeros(len(table.specs), int))
    choice = allocate(table.options, 1.15 * smallest)
    assert choice is not None
    recipe = table.recipe("tuned", choice)
    importance = importance_of(checkpoint)
    held_out = windows(9, 8)
    measurer = Measurer(
        checkpoint, describe(checkpoint), load_model(checkpoint), importance, held_out
    )
    measured = measurer.divergence(recipe.per_tensor, NoProgress())
    assert measured == pytest.approx(table.options.loss(choice), rel=0.6)
    artifact = convert(
        checkpoint, recipe, tmp_path / "a", progress=NoProgress(), importance=importance
    )
    assert artifact.manifest.source.recipe["per_tensor"] == recipe.per_tensor
    runtime = load(artifact, in_process=True, context_length=64, threads=1)
    model = load_model(checkpoint)
    total = []
    for window in held_out:
        with torch.inference_mode():
            wanted = model(torch.tensor([window.token_ids])).logits[0].log_softmax(-1)
        found = torch.from_numpy(runtime.score(window.token_ids).copy()).log_softmax(-1)
        total.append((wanted.exp() * (wanted - found)).sum(-1)[:-1])
    runtime.close()
    # The engines round activations to 8 bits, which torch does not.
    assert float(torch.cat(total).mean()) == pytest.approx(measured, rel=0.25)


def test_measuring_puts_back_what_is_not_named(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    shape = describe(checkpoint)
    measurer = Measurer(
        checkpoint, shape, load_model(checkpoint), importance_of(checkpoint), windows(9, 4)
    )
    one = {"model.layers.0.mlp.up_proj.weight": "q4_0"}
    other = {"model.layers.1.mlp.up_proj.weight": "q4_0"}
    first = measurer.divergence(one, NoProgress())
    assert measurer.divergence(other, NoProgress()) != first
    assert measurer.divergence(one, NoProgress()) == first
    assert measurer.divergence({}, NoProgress()) == pytest.approx(0, abs=1e-5)


def test_the_recipe_is_called_by_what_most_weights_are(tiny_checkpoint: Path) -> None:
    table = table_of(Checkpoint.open(tiny_checkpoint), "gguf")
    column = table.types.index("q5_k")
    recipe = table.recipe("x", np.full(len(table.specs), column))
    assert (recipe.scheme, recipe.format) == ("q5_k_m", "gguf")
    types = {spec.name: "q5_k" for spec in table.specs}
    np.testing.assert_array_equal(table.choice(types), np.full(len(table.specs), column))
    assert isinstance(recipe, Recipe)
