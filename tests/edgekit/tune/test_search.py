"""tune: within the budget, never worse than a preset there, and interrupted without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.recipe import Recipe
from converters.schemes import SCHEMES
from devices.profile import load_profile
from edgekit.artifact import Format
from edgekit.errors import GateError, UsageError
from edgekit.progress import NoProgress
from edgekit.workflows.tune import laboratory as laboratory_module
from edgekit.workflows.tune.laboratory import Laboratory
from edgekit.workflows.tune.search import tune
from edgekit.workflows.tune.wish import Budget

TEXT = "A kettle boils at 100 degrees. The quick brown fox jumps over 12345 lazy dogs.\n" * 80


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that the tests share: what is measured once is measured."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def laboratory(checkpoint: Checkpoint, folder: Path) -> Laboratory:
    return Laboratory(checkpoint, folder / "text.txt", folder / "cache", NoProgress())


def types_of(checkpoint: Checkpoint, recipe: Recipe, laboratory: Laboratory) -> dict[str, str]:
    planned = plan(checkpoint, recipe, laboratory.importance)
    return {t.source: t.type for t in planned.tensors if t.source and len(t.shape) == 2}


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [760_000, 900_000, 1_200_000])
def test_never_worse_than_any_preset_of_that_size(
    checkpoint: Checkpoint, laboratory: Laboratory, max_bytes: int, tmp_path: Path
) -> None:
    found = tune(checkpoint, Budget(max_bytes=max_bytes), laboratory)
    assert found.chosen.bytes <= max_bytes
    artifact = convert(
        checkpoint,
        found.chosen.recipe,
        tmp_path / "a",
        progress=NoProgress(),
        importance=laboratory.importance,
    )
    assert artifact.manifest.total_bytes <= max_bytes
    tried = 0
    for name in SCHEMES["gguf"]:  # all of them, not only those that the search looked at
        recipe = Recipe.of("gguf", name)
        if plan(checkpoint, recipe, laboratory.importance).file_bytes <= max_bytes:
            tried += 1
            types = types_of(checkpoint, recipe, laboratory)
            assert found.chosen.measured <= laboratory.divergence(types), name
    assert tried


@pytest.mark.slow
def test_the_smallest_that_holds_a_divergence(
    checkpoint: Checkpoint, laboratory: Laboratory
) -> None:
    found = tune(checkpoint, Budget(max_kld=0.03), laboratory)
    assert found.chosen.measured is not None
    assert found.chosen.measured <= 0.03
    presets = [p for p in found.points if p.is_preset]
    assert found.chosen.bytes < min(p.bytes for p in presets)
    assert found.chosen.measured > 0.02  # bytes were spent to the limit, not beyond


@pytest.mark.slow
def test_onnx_holds_the_size_of_the_whole_artifact(
    checkpoint: Checkpoint, laboratory: Laboratory, tmp_path: Path
) -> None:
    smallest = tune(checkpoint, Budget("onnx", max_kld=10.0), laboratory).chosen.bytes
    limit = smallest + 100_000
    found = tune(checkpoint, Budget("onnx", max_bytes=limit), laboratory)
    assert not found.chosen.is_preset
    artifact = convert(
        checkpoint,
        found.chosen.recipe,
        tmp_path / "a",
        progress=NoProgress(),
        importance=laboratory.importance,
    )
    assert artifact.manifest.total_bytes <= limit
    model_bytes = [f.bytes for f in artifact.manifest.files if f.path == "model.onnx.data"]
    # A tied table is stored once, also where its type was chosen apart from the scheme's.
    shape = describe(checkpoint)
    assert model_bytes[0] < 1.2 * limit
    assert shape.tied_embeddings


@pytest.mark.slow
def test_a_device_bounds_speed_and_memory(checkpoint: Checkpoint, laboratory: Laboratory) -> None:
    profile = load_profile("raspberry-pi-5-8gb")
    free = tune(checkpoint, Budget(profile=profile), laboratory).chosen
    assert free.tokens_per_s is not None
    wanted = 1.3 * free.tokens_per_s
    fast = tune(checkpoint, Budget(profile=profile, min_tokens_per_s=wanted), laboratory).chosen
    assert fast.tokens_per_s is not None
    assert fast.tokens_per_s >= wanted
    assert fast.measured > free.measured


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(max_bytes=100_000), "nothing holds 100.0 KB: the smallest preset is"),
        (Budget(max_kld=1e-9), "nothing within the budget has a divergence of 1e-09"),
        (Budget(profile=load_profile("raspberry-pi-5-8gb"), min_tokens_per_s=1e9), "tokens/s"),
    ],
)
def test_what_cannot_be_held_is_said(
    checkpoint: Checkpoint, laboratory: Laboratory, budget: Budget, words: str
) -> None:
    with pytest.raises(GateError, match=words):
        tune(checkpoint, budget, laboratory)


def test_a_budget_says_something() -> None:
    with pytest.raises(UsageError, match="no budget"):
        Budget()
    with pytest.raises(UsageError, match="a speed is a device's"):
        Budget(max_bytes=1, min_tokens_per_s=3.0)


@pytest.mark.slow
def test_an_interrupted_search_goes_on(
    checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, budget = folder / "other-cache", Budget(max_bytes=900_000)
    measured = laboratory_module.Measurer.divergence
    calls: list[int] = []

    def interrupted(self: object, *arguments: object) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(self, *arguments)  # type: ignore[arg-type]

    tabled = laboratory_module.measure_losses
    tables: list[int] = []

    def counted(*arguments: Any) -> Any:
        tables.append(1)
        return tabled(*arguments)

    monkeypatch.setattr(laboratory_module, "measure_losses", counted)
    monkeypatch.setattr(laboratory_module.Measurer, "divergence", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(checkpoint, budget, Laboratory(checkpoint, folder / "text.txt", cache, NoProgress()))
    first = tune(
        checkpoint, budget, Laboratory(checkpoint, folder / "text.txt", cache, NoProgress())
    )
    assert len(calls) == 1 + len(first.points)  # the two before the interruption were kept
    again = tune(
        checkpoint, budget, Laboratory(checkpoint, folder / "text.txt", cache, NoProgress())
    )
    assert len(calls) == 1 + len(first.points)
    assert len(tables) == 1
    assert again == first


@pytest.mark.parametrize("format_name", ["gguf", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_recipe_survives_its_file(
    checkpoint: Checkpoint, laboratory: Laboratory, format_name: Format, tmp_path: Path
) -> None:
    recipe = tune(checkpoint, Budget(format_name, max_kld=0.1), laboratory).chosen.recipe
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.named(str(path)) == recipe
