"""Zeros: where the papers' rules put them, everywhere else the weights as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.lineage import read_stage
from converters.pruning.prune import Texts
from converters.pruning.sparsity import parse_pattern
from edgekit.errors import UsageError

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def kept_of(scores: NDArray[np.float64], pattern: str, *, by_row: bool) -> NDArray[np.bool_]:
    """Return what stays, written as loops over what competes."""
    kept = np.ones(scores.shape, dtype=bool)
    if pattern == "2:4":
        for row in range(len(scores)):
            for first in range(0, scores.shape[1], 4):
                kept[row, first + np.argsort(scores[row, first : first + 4])[:2]] = False
    elif by_row:
        for row in range(len(scores)):
            kept[row, np.argsort(scores[row])[: scores.shape[1] // 2]] = False
    else:
        kept[scores <= np.median(scores)] = False
    return kept


def expected_model(source: Checkpoint, pattern: str, method: str, texts: Texts, reload: Any) -> Any:
    """Zero the weights of a torch model, layer after layer, by the rule of `method`."""
    import torch

    model = reload(source)
    for layer in model.model.layers:
        modules = [m for name, m in layer.named_modules() if name.split(".")[-1] in MATRICES]
        squares: dict[Any, Any] = dict.fromkeys(modules, 0.0)

        def hear(module: Any, inputs: Any, squares: dict[Any, Any] = squares) -> None:
            squares[module] = squares[module] + inputs[0][0].double().square().sum(0)

        hooks = [module.register_forward_pre_hook(hear) for module in modules]
        with torch.no_grad():
            for ids in texts.choice:
                model(torch.tensor([list(ids)]))
            for module in modules:
                scores = module.weight.double().abs()
                if method == "wanda":
                    scores = scores * squares[module].sqrt()
                kept = kept_of(scores.numpy(), pattern, by_row=method == "wanda")
                module.weight.mul_(torch.from_numpy(kept))
        for hook in hooks:
            hook.remove()
    return model


@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_zeros_are_where_the_rule_puts_them(
    pattern: str,
    method: str,
    tiny_checkpoint: Any,
    pruned_to: Callable[..., Checkpoint],
    reload: Callable[[Checkpoint], Any],
    texts: Texts,
) -> None:
    source = Checkpoint.open(tiny_checkpoint)
    pruned = pruned_to(source, sparsity=pattern, method=method)
    expected = expected_model(source, pattern, method, texts, reload)
    found = reload(pruned).state_dict()
    differing = total = 0
    for name, values in expected.state_dict().items():
        differing += int((found[name] != values).sum())
        total += values.numel()
    assert differing <= total * 1e-5  # near ties may fall either way
    stage = read_stage(pruned)
    assert stage is not None
    (step,) = stage.how["steps"]
    assert (step["pattern"], step["method"]) == (pattern, method)
    assert step["zeros"] == pytest.approx(0.5)
    assert stage.how["verdict"]["advice"] == "do not prune"
    assert "neither engine faster nor the file smaller" in stage.how["verdict"]["why"]
    assert stage.how["weights_before"] == stage.how["weights_after"]


def test_a_pattern_of_blocks_holds_in_every_block(
    tiny_checkpoint: Any, pruned_to: Callable[..., Checkpoint]
) -> None:
    source = Checkpoint.open(tiny_checkpoint)
    pruned = pruned_to(source, sparsity="1:4")
    for spec in describe(pruned).tensors():
        values = pruned.read(spec.name)
        if spec.layer is not None and len(spec.shape) == 2:
            assert ((values.reshape(-1, 4) != 0).sum(axis=1) == 1).all()
        else:
            assert np.array_equal(values, source.read(spec.name))


@pytest.mark.parametrize(
    "text", ["0", "1", "1.0", "-0.5", "4:2", "2:2", "0:4", "2:3", "half", "0.5.5", "nan", ""]
)
def test_impossible_patterns_are_refused(text: str, tiny_checkpoint: Any) -> None:
    with pytest.raises(UsageError, match="--sparsity"):
        parse_pattern(text, describe(Checkpoint.open(tiny_checkpoint)))
