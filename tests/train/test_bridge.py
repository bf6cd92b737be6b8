"""Bridges: the weights are those of least squares, and a gap is found in any record that tells."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.lineage import Stage, write_stage
from converters.reference import load_model
from edgekit.progress import NoProgress
from edgekit.train.bridge import RIDGES, Text, bridge, kept_layers

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def original(make_checkpoint: Callable[..., Path]) -> Checkpoint:
    settings = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 128}
    return Checkpoint.open(make_checkpoint("llama", **settings))


@pytest.fixture(scope="module")
def text() -> Text:
    rng = np.random.default_rng(0)
    windows = [rng.integers(0, 256, 48).tolist() for _ in range(30)]
    return Text(windows[:24], windows[24:])


def without(model: Any, *layers: int) -> Any:
    """Take layers out of a transformers model, in place."""
    import torch

    kept = [layer for i, layer in enumerate(model.model.layers) if i not in layers]
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    return model


def leaving(model: Any, layer: int, windows: Any) -> np.ndarray[Any, Any]:
    """Return what leaves a layer, [tokens, hidden], as transformers itself collects it."""
    import torch

    found = []
    with torch.inference_mode():
        for ids in windows:
            hook = model.model.layers[layer].register_forward_hook(
                lambda _m, _i, out: found.append(out[0] if isinstance(out, tuple) else out)
            )
            model(torch.tensor([ids]), use_cache=False)
            hook.remove()
    return torch.cat([f.reshape(-1, f.shape[-1]) for f in found]).double().numpy()


def units(model: Any, layer: int, windows: Any) -> np.ndarray[Any, Any]:
    """Return what enters the way down of a layer, [tokens, units]."""
    import torch

    found: list[Any] = []
    down = model.model.layers[layer].mlp.down_proj
    hook = down.register_forward_pre_hook(lambda _m, inputs: found.append(inputs[0][0]))
    with torch.inference_mode():
        for ids in windows:
            model(torch.tensor([ids]), use_cache=False)
    hook.remove()
    return torch.cat(found).double().numpy()


def test_the_weights_are_those_of_least_squares(original: Checkpoint, text: Text) -> None:
    """numpy solves the first layer's problem by itself, on the rows that the models give."""
    teacher, student = load_model(original), without(load_model(original), 2)
    before = student.model.layers[1].mlp.down_proj.weight.detach().double().numpy().copy()
    target = leaving(teacher, 2, text.solved)
    length = np.linalg.norm(target, axis=1, keepdims=True)
    x = units(student, 1, text.solved) / length
    y = (target - leaving(student, 1, text.solved)) / length
    done = bridge(student, teacher, (0, 1, 3, 4, 5), text, None, NoProgress())
    assert done[0].layer == 1
    change = student.model.layers[1].mlp.down_proj.weight.detach().double().numpy() - before
    candidates = []
    for ridge in RIDGES:
        held = np.sqrt(ridge * (x**2).sum(0).mean()) * np.eye(x.shape[1])
        rows, sides = np.vstack([x, held]), np.vstack([y, np.zeros((len(held), y.shape[1]))])
        candidates.append(np.linalg.lstsq(rows, sides, rcond=None)[0].T)
    distances = [np.abs(change - c).max() / np.abs(c).max() for c in candidates]
    assert min(distances) < 1e-3
    # The ridge is the one that does best on the other windows, and the figures are those there.
    target = leaving(teacher, 2, text.chosen)
    student = without(load_model(original), 2)
    x, y = units(student, 1, text.chosen), target - leaving(student, 1, text.chosen)
    length = np.linalg.norm(target, axis=1)
    errors = [(((y - x @ c.T) ** 2).sum(1) / length**2).mean() for c in candidates]
    assert int(np.argmin(distances)) == int(np.argmin(errors))
    assert done[0].after == pytest.approx(min(errors), rel=1e-3)
    assert done[0].before == pytest.approx(((y**2).sum(1) / length**2).mean(), rel=1e-3)


def test_what_follows_the_gap_comes_closer(original: Checkpoint, text: Text) -> None:
    teacher = load_model(original)
    bare, bridged = (without(load_model(original), 1, 3) for _ in range(2))
    done = bridge(bridged, teacher, (0, 2, 4, 5), text, None, NoProgress())
    assert {0, 1} <= {b.layer for b in done}
    assert all(b.after < 0.97 * b.before for b in done)
    rng = np.random.default_rng(1)
    unseen = [rng.integers(0, 256, 48).tolist() for _ in range(8)]
    target = leaving(teacher, 5, unseen)
    far, near = (np.linalg.norm(leaving(m, 3, unseen) - target) for m in (bare, bridged))
    assert near < 0.95 * far


def test_a_whole_model_and_one_without_its_first_layer(original: Checkpoint, text: Text) -> None:
    teacher, student = load_model(original), load_model(original)
    assert bridge(student, teacher, range(6), text, None, NoProgress()) == []
    behind = without(load_model(original), 0)
    done = bridge(behind, teacher, (1, 2, 3, 4, 5), text, None, NoProgress())
    assert {b.layer for b in done} <= {0, 1}


def test_a_pruned_vocabulary_asks_in_the_teachers_tokens(original: Checkpoint, text: Text) -> None:
    """Ids that are numbered anew, and mean the same, lead to the same weights."""
    import torch

    teacher = load_model(original)
    size = teacher.config.vocab_size
    order = np.random.default_rng(2).permutation(size)
    place = np.argsort(order)
    straight, anew = (without(load_model(original), 2) for _ in range(2))
    with torch.no_grad():
        anew.model.embed_tokens.weight.copy_(teacher.model.embed_tokens.weight[order])
    renamed = Text(
        *([[int(place[i]) for i in ids] for ids in part] for part in (text.solved, text.chosen))
    )
    kept = (0, 1, 3, 4, 5)
    first = bridge(straight, teacher, kept, text, None, NoProgress())
    assert bridge(anew, teacher, kept, renamed, [int(i) for i in order], NoProgress()) == first


def a_stage(parent: Checkpoint, removed: Any) -> Stage:
    how = {"steps": [{"kind": "units"}, {"kind": "layers", "removed": removed}]}
    return Stage("pruned", str(parent.path), parent.digest(), how)


def a_copy(of: Checkpoint, folder: Path, layers: int, stage: Stage | None) -> Checkpoint:
    """Copy a checkpoint that says it has so many layers; nobody looks at its weights here."""
    shutil.copytree(of.path, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"num_hidden_layers": 6', f'"num_hidden_layers": {layers}')
    )
    if stage is not None:
        write_stage(folder, stage)
    return Checkpoint.open(folder)


def test_records_tell_which_layers_are_left(original: Checkpoint, tmp_path: Path) -> None:
    assert kept_layers(original, original) == (0, 1, 2, 3, 4, 5)
    once = a_copy(original, tmp_path / "once", 4, a_stage(original, [1, 3]))
    assert kept_layers(once, original) == (0, 2, 4, 5)
    twice = a_copy(original, tmp_path / "twice", 3, a_stage(once, [1]))
    assert kept_layers(twice, original) == (0, 4, 5)
    moved = a_copy(original, tmp_path / "moved", 6, None)
    assert kept_layers(twice, moved) == (0, 4, 5)  # the original is known by what it holds
    shutil.rmtree(once.path)
    assert kept_layers(twice, original) is None


@pytest.mark.parametrize("removed", [[7], [1], [-1, 1], "all", [None, 1]])
def test_a_record_that_does_not_fit_tells_nothing(
    original: Checkpoint, tmp_path: Path, removed: Any
) -> None:
    odd = a_copy(original, tmp_path / "odd", 4, a_stage(original, removed))
    assert kept_layers(odd, original) is None


def test_a_stranger_tells_nothing(original: Checkpoint, tmp_path: Path) -> None:
    assert kept_layers(a_copy(original, tmp_path / "other", 4, None), original) is None
