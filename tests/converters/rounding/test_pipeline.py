"""Rounded together: closer to the original in the engine itself, and written as it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import torch

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.export_gguf import interleave_halves
from converters.importance import Importance, collect
from converters.onnx_quantize import dequantise_rows
from converters.recipe import Recipe
from converters.reference import Window, load_model
from converters.rounding import distil
from converters.rounding.pipeline import Work, round_checkpoint
from converters.rounding.rounded import Rounded, load_rounded
from edgekit.artifact import Artifact
from edgekit.progress import Advance, NoProgress
from runtimes.load import load

SCHEMES = [
    ("gguf", "iq4_nl"),
    pytest.param("onnx", "int4", marks=pytest.mark.slow),
    pytest.param("gguf", "q4_0", marks=pytest.mark.slow),
    pytest.param("gguf", "q4_k_m", marks=pytest.mark.slow),
    pytest.param("onnx", "int4_asymmetric", marks=pytest.mark.slow),
]
STEPS, TEXT_WINDOWS = 24, 120
FEW_WINDOWS = 16  # enough where nothing is measured


def windows(seed: int, count: int) -> tuple[Window, ...]:
    rng = np.random.default_rng(seed)
    return tuple(Window("x", tuple(map(int, rng.integers(3, 400, 48)))) for _ in range(count))


def importance_of(checkpoint: Checkpoint, count: int) -> Importance:
    ids = [window.token_ids for window in windows(0, count)]
    return collect(checkpoint, describe(checkpoint), ids, "a test", NoProgress())


def work_for(
    checkpoint: Checkpoint, recipe: Recipe, steps: int = 0, count: int = FEW_WINDOWS
) -> Work:
    importance = importance_of(checkpoint, count)
    planned = plan(checkpoint, recipe, importance)
    text = windows(0, count)
    return Work(checkpoint, planned, importance, text, steps, lessons=text)


def divergence(artifact: Artifact, checkpoint: Checkpoint) -> float:
    """Return the mean KL divergence of the engine's answers on text that was not trained on."""
    model = load_model(checkpoint)
    runtime = load(artifact, in_process=True, context_length=64, threads=1)
    total = []
    for window in windows(1, 6):
        with torch.inference_mode():
            wanted = model(torch.tensor([window.token_ids])).logits[0].log_softmax(-1)
        found = torch.from_numpy(runtime.score(window.token_ids).copy()).log_softmax(-1)
        total.append(float((wanted.exp() * (wanted - found)).sum(-1).mean()))
    runtime.close()
    return float(np.mean(total))


@pytest.mark.parametrize(("format_name", "scheme"), SCHEMES)
def test_the_engine_answers_closer_to_the_original(
    format_name: str, scheme: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    recipe = Recipe.of(format_name, scheme)
    work = work_for(checkpoint, recipe, STEPS, TEXT_WINDOWS)
    found = []
    for steps in (None, 0, STEPS):
        rounded = None
        if steps is not None:
            rounded = round_checkpoint(replace(work, steps=steps), tmp_path / "c", NoProgress())
        artifact = convert(
            checkpoint,
            recipe,
            tmp_path / f"{steps}",
            progress=NoProgress(),
            importance=work.importance,
            rounded=rounded,
        )
        found.append(divergence(artifact, checkpoint))
    weighed, compensated, distilled = found
    assert compensated < weighed
    assert distilled < compensated
    assert artifact.manifest.source.recipe["rounding"]["method"] == "distilled"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_gguf_holds_what_was_chosen(
    architecture: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(architecture))
    recipe = Recipe.of("gguf", "q4_k_m")
    work = work_for(checkpoint, recipe, 2)
    rounded = round_checkpoint(work, tmp_path / "c", NoProgress())
    artifact = convert(
        checkpoint, recipe, tmp_path / "a", progress=NoProgress(), importance=work.importance,
        rounded=rounded,
    )  # fmt: skip
    reader = gguf.GGUFReader(artifact.entry)
    tensors = {t.name: t for t in reader.tensors}
    names = {t.source: t.name for t in work.plan.tensors}
    head_dim = describe(checkpoint).head_dim
    for source, blocks in rounded.blocks.items():
        tensor = tensors[names[source]]
        expected = blocks.weights()
        if architecture == "llama" and ("q_proj" in source or "k_proj" in source):
            expected = interleave_halves(expected, head_dim)
        np.testing.assert_array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), expected)
    for source, gains in rounded.gains.items():
        np.testing.assert_array_equal(tensors[names[source]].data, gains)
        assert not np.array_equal(gains, checkpoint.read(source))
    assert len(rounded.blocks) == 15
    assert len(rounded.gains) == (9 if architecture == "qwen3" else 5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int4", "int4_asymmetric"])
def test_the_onnx_holds_what_was_chosen(scheme: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    recipe = Recipe.of("onnx", scheme)
    work = work_for(checkpoint, recipe, 2)
    rounded = round_checkpoint(work, tmp_path / "c", NoProgress())
    artifact = convert(
        checkpoint, recipe, tmp_path / "a", progress=NoProgress(), importance=work.importance,
        rounded=rounded,
    )  # fmt: skip
    model = onnx.load(artifact.entry)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    prefix = "model.layers.1.self_attn"
    codes, scales = (stored[f"{prefix}.qkv_proj.weight.{s}"] for s in ("codes", "scales"))
    zero_points = stored.get(f"{prefix}.qkv_proj.weight.zero_points")
    assert (zero_points is None) == (scheme == "int4")
    parts = [rounded.blocks[f"{prefix}.{n}_proj.weight"].weights() for n in "qkv"]
    np.testing.assert_array_equal(
        dequantise_rows(codes, scales, 4, zero_points), np.concatenate(parts)
    )
    np.testing.assert_array_equal(stored["model.norm.weight"], rounded.gains["model.norm.weight"])


@pytest.mark.slow
def test_what_was_made_is_kept_and_comes_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    work = work_for(checkpoint, Recipe.of("gguf", "q4_0"), 2)
    made = round_checkpoint(work, tmp_path, NoProgress())
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 2  # the compensated codes too: a killed distillation begins with them
    again = round_checkpoint(work, tmp_path, NoProgress())
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    assert again.facts == made.facts
    for name, blocks in made.blocks.items():
        np.testing.assert_array_equal(again.blocks[name].weights(), blocks.weights())
    other = round_checkpoint(replace(work, steps=3), tmp_path, NoProgress())
    assert other.facts["steps"] == 3


class Interrupts(NoProgress):
    """Interrupts the distillation behind its second step."""

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        done: list[int] = []

        def advance(count: int) -> None:
            done.append(count)
            if label.startswith("distilling") and len(done) == 2:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.slow
def test_an_interrupted_distillation_ends_as_one_that_was_not(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distil, "SAVE_S", 0.0)
    work = work_for(Checkpoint.open(tiny_checkpoint), Recipe.of("gguf", "q4_1"), 5)
    straight = round_checkpoint(work, tmp_path / "straight", NoProgress())
    for _ in range(2):  # behind two steps, behind four
        with pytest.raises(KeyboardInterrupt):
            round_checkpoint(work, tmp_path / "resumed", Interrupts())
        assert len(list((tmp_path / "resumed").glob("*.state"))) == 1
    resumed = round_checkpoint(work, tmp_path / "resumed", NoProgress())
    assert not list((tmp_path / "resumed").glob("*.state"))
    assert resumed.facts == straight.facts
    for name, blocks in straight.blocks.items():
        np.testing.assert_array_equal(resumed.blocks[name].scales, blocks.scales)
        np.testing.assert_array_equal(resumed.blocks[name].offsets, blocks.offsets)
    for name, gains in straight.gains.items():
        np.testing.assert_array_equal(resumed.gains[name], gains)


def test_a_damaged_file_is_no_rounding(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert load_rounded(path) is None
    Rounded({}).save(path)
    assert load_rounded(path) == Rounded({})
    path.write_bytes(path.read_bytes()[:-20])
    assert load_rounded(path) is None
