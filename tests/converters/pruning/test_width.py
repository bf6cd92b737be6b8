"""Narrower layers: the same as silencing what was removed, and what contributes least goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.convert import plan
from converters.gguf_plan import plan_tensors
from converters.lineage import read_stage
from converters.pruning.attention import check_groups
from converters.pruning.feed_forward import width_to_keep
from converters.pruning.prune import Texts
from converters.recipe import Recipe
from edgekit.errors import InputError, UsageError

NAMES = ["llama", "qwen3", "mistral", "qwen2"]
FAMILIES = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("qwen3", {"tie_word_embeddings": False}),
    pytest.param("mistral", {}, marks=pytest.mark.slow),
    pytest.param("qwen2", {}, marks=pytest.mark.slow),
]


def inputs_of(model: Any, module: Any, texts: Texts) -> NDArray[np.float64]:
    """Return what enters `module` of `model` on the choice texts, [positions, size]."""
    import torch

    heard: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _module, inputs: heard.append(inputs[0][0]))
    with torch.inference_mode():
        for ids in texts.choice:
            model(torch.tensor([list(ids)]))
    hook.remove()
    found: NDArray[np.float64] = torch.cat(heard).double().numpy()
    return found


def least(model: Any, module: Any, parts: int, count: int, texts: Texts) -> NDArray[np.intp]:
    """Return the columns of the `count` of `parts` equal parts of a matrix that contribute least.

    What a part contributes is computed position by position, one part after another.
    """
    inputs, weight = inputs_of(model, module, texts), module.weight.detach().double().numpy()
    columns = np.arange(weight.shape[1]).reshape(parts, -1)
    sent = [np.linalg.norm(inputs[:, part] @ weight[:, part].T) for part in columns]
    return columns[np.argsort(sent)[:count]].reshape(-1)


@pytest.mark.parametrize(("family", "overrides"), FAMILIES, ids=NAMES)
def test_fewer_units_are_the_model_with_the_others_silent(
    family: str,
    overrides: dict[str, Any],
    make_checkpoint: Callable[..., Path],
    pruned_to: Callable[..., Checkpoint],
    reload: Callable[[Checkpoint], Any],
    logits: Callable[..., Any],
    texts: Texts,
    assert_same_everywhere: Callable[..., None],
) -> None:
    import torch

    source = Checkpoint.open(make_checkpoint(family, **overrides))
    pruned = pruned_to(source, feed_forward=256)
    assert pruned.config["intermediate_size"] == 256
    model = reload(source)
    downs = [layer.mlp.down_proj for layer in model.model.layers]
    silent = [least(model, down, 512, 256, texts) for down in downs]
    with torch.no_grad():
        for down, units in zip(downs, silent, strict=True):
            down.weight[:, units] = 0
    expected = logits(model)
    assert np.abs(expected - logits(reload(source))).max() > 0.05  # else nothing would be proved
    assert_same_everywhere(pruned, expected)


@pytest.mark.parametrize(("family", "overrides"), FAMILIES, ids=NAMES)
def test_fewer_groups_are_the_model_with_the_other_heads_silent(
    family: str,
    overrides: dict[str, Any],
    make_checkpoint: Callable[..., Path],
    pruned_to: Callable[..., Checkpoint],
    reload: Callable[[Checkpoint], Any],
    logits: Callable[..., Any],
    texts: Texts,
    assert_same_everywhere: Callable[..., None],
) -> None:
    import torch

    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
    heads["num_hidden_layers"] = 4
    source = Checkpoint.open(make_checkpoint(family, **heads, **overrides))
    pruned = pruned_to(source, kv_groups=3)  # six heads: no divisor of the hidden size
    shape = describe(pruned)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (6, 3, 32)
    assert pruned.config["head_dim"] == 32
    model = reload(source)
    outputs = [layer.self_attn.o_proj for layer in model.model.layers]
    silent = [least(model, output, 4, 1, texts) for output in outputs]
    assert len({int(columns[0]) for columns in silent}) > 1  # else a wrong group could pass
    with torch.no_grad():
        for output, columns in zip(outputs, silent, strict=True):
            output.weight[:, columns] = 0
    expected = logits(model)
    assert np.abs(expected - logits(reload(source))).max() > 0.05
    assert_same_everywhere(pruned, expected, gguf=family != "qwen2")
    if family == "qwen2":
        stage = read_stage(pruned)
        assert stage is not None
        assert "not to GGUF" in stage.how["steps"][0]["why"]
        with pytest.raises(InputError, match="qwen2 cannot have"):
            plan(pruned, Recipe.of("gguf", "f32"))


def test_rounding_is_told_and_lifts_the_restriction_of_k_quants(
    make_checkpoint: Callable[..., Path], pruned_to: Callable[..., Checkpoint]
) -> None:
    source = Checkpoint.open(make_checkpoint("llama", intermediate_size=416))
    pruned = pruned_to(source, feed_forward=300)
    stage = read_stage(pruned)
    assert stage is not None
    (step,) = stage.how["steps"]
    assert (step["kept"], step["of"]) == (256, 416)
    assert "K-quants" in step["why"]
    substitutions = [
        plan_tensors(describe(checkpoint), Recipe.of("gguf", "q4_k_m"))[1]
        for checkpoint in (source, pruned)
    ]
    assert [len(s) for s in substitutions] == [2, 0]


@pytest.mark.parametrize(
    ("asked", "units", "exact", "width"),
    [(1280, 1536, False, 1280), (1300, 1536, False, 1280), (1500, 1536, False, 1280),
     (100, 1536, False, 256), (1300, 1536, True, 1300), (600, 1000, False, 512)],
)  # fmt: skip
def test_widths_are_multiples_unless_told(asked: int, units: int, exact: bool, width: int) -> None:
    found, why = width_to_keep(asked, units, exact=exact)
    assert found == width
    assert bool(why) == (found != asked)


@pytest.mark.parametrize("asked", [0, -256, 1536, 2048])
def test_impossible_widths_are_refused(asked: int) -> None:
    with pytest.raises(UsageError, match="1536 units"):
        width_to_keep(asked, 1536, exact=False)


def test_a_layer_too_narrow_to_round_is_refused_unless_exact() -> None:
    with pytest.raises(UsageError, match="no multiple of 256"):
        width_to_keep(100, 256, exact=False)
    assert width_to_keep(100, 256, exact=True) == (100, "")


@pytest.mark.parametrize(("asked", "groups"), [(0, 4), (-1, 4), (4, 4), (5, 4), (1, 1)])
def test_impossible_groups_are_refused(asked: int, groups: int) -> None:
    with pytest.raises(UsageError, match="key-value heads"):
        check_groups(asked, groups)
