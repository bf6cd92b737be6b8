"""Layers removed: the choice is the one of brute force, the result what torch itself would give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.lineage import read_stage
from converters.pruning import depth
from converters.pruning.draft import Draft
from converters.pruning.prune import Texts
from edgekit.errors import UsageError
from edgekit.progress import NoProgress


def without(model: Any, dropped: Sequence[int]) -> Any:
    """Delete layers from a transformers model."""
    import torch

    kept = [layer for number, layer in enumerate(model.model.layers) if number not in dropped]
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    return model


def mean_divergence(original: Sequence[Any], model: Any, texts: Texts, logits: Any) -> float:
    import torch

    found = [
        torch.nn.functional.kl_div(
            torch.from_numpy(logits(model, ids)).log_softmax(-1),
            torch.from_numpy(expected).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        for ids, expected in zip(texts.choice, original, strict=True)
    ]
    return float(torch.cat(found).mean())


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 16, "tie_word_embeddings": False}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": False}),
    ],
    ids=["llama", "mistral", "qwen2", "qwen3"],
)
def test_the_pruned_checkpoint_is_torch_without_those_layers(
    family: str,
    overrides: dict[str, Any],
    four_layers: Callable[..., Checkpoint],
    pruned_to: Callable[..., Checkpoint],
    reload: Callable[[Checkpoint], Any],
    logits: Callable[..., Any],
    assert_same_everywhere: Callable[..., None],
) -> None:
    source = four_layers(family, **overrides)
    pruned = pruned_to(source, drop=(2, 0))
    expected = logits(without(reload(source), [0, 2]))
    assert np.abs(expected - logits(reload(source))).max() > 0.1  # else nothing would be proved
    if family == "mistral":  # llama.cpp computes no window: its context ends there
        assert np.abs(logits(reload(pruned)) - expected).max() < 1e-5
    else:
        assert_same_everywhere(pruned, expected)


@pytest.mark.parametrize("window", [None, 8])
def test_the_choice_is_that_of_brute_force(
    window: int | None,
    four_layers: Callable[..., Checkpoint],
    reload: Callable[[Checkpoint], Any],
    logits: Callable[..., Any],
    texts: Texts,
) -> None:
    source = four_layers("mistral", sliding_window=window)
    original = [logits(reload(source), ids) for ids in texts.choice]
    choice = depth.choose(reload(source), texts.choice, 2, NoProgress())
    removed: list[int] = []
    for place in range(2):
        tried = {
            layer: mean_divergence(
                original, without(reload(source), [*removed, layer]), texts, logits
            )
            for layer in range(4)
            if layer not in removed
        }
        if not removed:
            np.testing.assert_allclose(choice.alone, list(tried.values()), rtol=1e-4)
        removed.append(min(tried, key=lambda layer: tried[layer]))
        assert choice.divergence[place] == pytest.approx(tried[removed[-1]], rel=1e-4)
    assert choice.layers == removed


def test_layers_by_count_are_chosen_and_the_stage_says_how(
    four_layers: Callable[..., Checkpoint], pruned_to: Callable[..., Checkpoint]
) -> None:
    source = four_layers()
    pruned = pruned_to(source, layers="30%")
    stage = read_stage(pruned)
    assert stage is not None
    assert (stage.kind, stage.parent) == ("pruned", str(source.path))
    assert stage.parent_digest == source.digest()
    (step,) = stage.how["steps"]
    assert step["method"] == "leave-one-out divergence"
    assert len(step["removed"]) == 1
    assert min(step["divergence_without_one"]) == step["divergence"][0]
    assert step["divergence_without_one"].index(step["divergence"][0]) == step["removed"][0]
    assert stage.how["kld_mean"] > 0
    assert stage.how["weights_after"] == pruned.parameters < source.parameters


def test_lists_of_the_configuration_lose_the_same_entries(
    four_layers: Callable[..., Checkpoint],
) -> None:
    draft = Draft.of(four_layers("qwen2"))
    config = {
        **draft.config,
        "layer_types": ["a", "b", "c", "d"],
        "no_rope_layers": [1, 2, 3, 4],
        "eos_token_id": [5, 6, 7, 8],
        "max_window_layers": 4,
        "three": [1, 2, 3],
    }
    shorter = depth.drop_layers(Draft(draft.source, config, draft.weights), [1]).config
    assert shorter == config | {
        "layer_types": ["a", "c", "d"],
        "no_rope_layers": [1, 3, 4],
        "max_window_layers": 3,
        "num_hidden_layers": 3,
    }


def test_layer_types_that_transformers_wrote_are_shortened_on_disk(
    four_layers: Callable[..., Checkpoint], pruned_to: Callable[..., Checkpoint]
) -> None:
    source = four_layers("qwen3")
    assert len(source.config["layer_types"]) == 4
    pruned = pruned_to(source, drop=(3,))
    on_disk = json.loads((Path(pruned.path) / "config.json").read_text())
    assert len(on_disk["layer_types"]) == on_disk["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("3", 3), ("10%", 3), ("1%", 1), ("50 %", 15), ("29", 29)]
)
def test_counts_and_shares(text: str, count: int) -> None:
    assert depth.count_to_remove(text, 30) == count


@pytest.mark.parametrize("text", ["0", "0%", "30", "31", "-1", "100%", "x", "", "1.5", "9" * 30])
def test_impossible_counts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--layers"):
        depth.count_to_remove(text, 30)


@pytest.mark.parametrize("dropped", [[], [4], [-1], [1, 1], [0, 1, 2, 3]])
def test_impossible_layers_are_refused(dropped: list[int]) -> None:
    with pytest.raises(UsageError, match="--drop"):
        depth.check_layers(dropped, 4)
