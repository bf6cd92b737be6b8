"""plan: sizes are exact, the choice has reasons, and what does not fit ends with both numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.convert import plan as plan_conversion
from converters.recipe import Recipe
from converters.schemes import SCHEMES
from devices.model_facts import ModelFacts
from devices.profile import PROFILES, DeviceProfile, load_profile
from edgekit.artifact import Artifact
from edgekit.cli.devices import devices as devices_command
from edgekit.cli.plan import plan as plan_command
from edgekit.errors import GateError, InputError, UsageError
from edgekit.progress import NoProgress
from edgekit.workflows.plan import DevicePlan, Wish, enforce, plan

BOARD = load_profile("raspberry-pi-5-8gb")


def planned(path: Path, profile: DeviceProfile = BOARD, **wish: Any) -> DevicePlan:
    return plan(str(path), profile, Wish(**wish), NoProgress())


@pytest.fixture(scope="module")
def of_checkpoint(tiny_checkpoint: Path) -> DevicePlan:
    return planned(tiny_checkpoint)


def test_every_scheme_of_both_device_formats_is_there(of_checkpoint: DevicePlan) -> None:
    found = {(c.model.format, c.model.scheme) for c in of_checkpoint.candidates}
    known = {(kind, name) for kind in ("gguf", "onnx") for name in SCHEMES[kind]}
    assert found == known
    assert of_checkpoint.left_out == {}


def test_sizes_are_those_that_the_converters_plan(
    of_checkpoint: DevicePlan, tiny_checkpoint: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    for candidate in of_checkpoint.candidates:
        model = candidate.model
        expected = plan_conversion(checkpoint, Recipe.of(model.format, model.scheme))
        assert model.file_bytes == expected.file_bytes
        assert model.weight_bytes == expected.tensor_bytes
        assert candidate.bits_per_weight == pytest.approx(expected.bits_per_weight)


@pytest.mark.parametrize(("known_format", "scheme"), [("gguf", "q4_k_m"), ("onnx", "int4")])
def test_a_plan_and_its_conversion_have_the_same_facts(
    of_checkpoint: DevicePlan,
    tiny_checkpoint: Path,
    tmp_path: Path,
    known_format: str,
    scheme: str,
) -> None:
    recipe = Recipe.of(known_format, scheme)
    artifact = convert(
        Checkpoint.open(tiny_checkpoint), recipe, tmp_path / "out", progress=NoProgress()
    )
    real = ModelFacts.of(Artifact.open(artifact.path))
    before = next(
        c.model
        for c in of_checkpoint.candidates
        if (c.model.format, c.model.scheme) == (known_format, scheme)
    )
    for field in ("file_bytes", "layers", "hidden_size", "intermediate_size", "vocabulary_size",
                  "kv_bytes_per_token", "tied", "output_type", "output_weights", "tokenizer_bytes",
                  "context_length", "parameters"):  # fmt: skip
        assert getattr(real, field) == getattr(before, field), field
    assert real.multiplied_weights == pytest.approx(before.multiplied_weights, rel=0.01)
    again = planned(artifact.path)
    assert len(again.candidates) == 1
    assert again.best.estimate.peak_memory_bytes == pytest.approx(
        next(c for c in of_checkpoint.candidates if c.model is before).estimate.peak_memory_bytes,
        rel=0.01,
    )


def test_a_torch_artifact_fits_no_device_but_has_its_facts(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint, recipe = Checkpoint.open(tiny_checkpoint), Recipe.of("torch", "nf4")
    artifact = convert(checkpoint, recipe, tmp_path / "out", progress=NoProgress())
    expected = plan_conversion(checkpoint, recipe)
    found = planned(artifact.path)
    assert not found.fits
    assert found.best.why == "the device has no engine for torch"
    model = found.best.model
    assert model.file_bytes == expected.file_bytes
    assert model.weight_bytes == expected.tensor_bytes
    assert set(model.block_weights) == {"nf4"}
    assert model.block_bytes["nf4"] < 0.6 * model.block_weights["nf4"]
    assert planned(artifact.path, replace(BOARD, engines=("torch",))).fits


def test_a_bare_gguf_file_is_a_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe.of("gguf", "q8_0")
    artifact = convert(
        Checkpoint.open(tiny_checkpoint), recipe, tmp_path / "out", progress=NoProgress()
    )
    bare = tmp_path / "bare.gguf"
    shutil.copyfile(artifact.entry, bare)
    found = planned(bare)
    assert found.fits
    assert found.best.model.scheme == "q8_0"
    expected = planned(artifact.path).best.estimate
    assert found.best.estimate == expected


def test_the_best_loses_least_of_what_holds_the_budget(of_checkpoint: DevicePlan) -> None:
    assert of_checkpoint.fits
    assert of_checkpoint.best.model.scheme in ("q8_0", "int8")
    reasons = {f"{c.model.format} {c.model.scheme}": c.why for c in of_checkpoint.candidates}
    assert "hardly better" in reasons["gguf f16"]
    assert "loses more" in reasons["gguf q4_k_m"]
    assert all(reasons.values())
    assert list(reasons.values()).count("chosen") == 1


def test_a_device_without_an_engine_takes_the_other_format(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint, replace(BOARD, engines=("onnx",)))
    assert found.best.model.format == "onnx"
    assert {c.why for c in found.candidates if c.model.format == "gguf"} == {
        "the device has no engine for gguf"
    }


def test_less_memory_means_a_smaller_scheme(tiny_checkpoint: Path) -> None:
    """Between the largest and the smallest candidate some fit; what is chosen does."""
    needs = sorted(c.estimate.needed_memory_bytes for c in planned(tiny_checkpoint).candidates)
    middle = needs[len(needs) // 2]
    found = planned(tiny_checkpoint, replace(BOARD, usable_memory_bytes=middle))
    assert found.fits
    assert found.best.estimate.needed_memory_bytes <= middle
    assert {c.fits for c in found.candidates} == {True, False}
    refused = next(c for c in found.candidates if not c.fits)
    assert refused.why.startswith("needs ")


def test_nothing_fits_names_both_numbers(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint, replace(BOARD, usable_memory_bytes=20_000_000))
    assert not found.fits
    with pytest.raises(GateError, match=r"needs \d+\.\d MB, the device has 20\.0 MB"):
        enforce(found)


def test_too_slow_names_both_numbers(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint, min_tokens_per_s=1e9)
    with pytest.raises(GateError, match=r"tokens/s expected, 1e\+09 are asked for"):
        enforce(found)


def test_a_missed_budget_is_told_but_is_no_failure(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint, replace(BOARD, budget_tokens_per_s=1e9))
    assert found.fits
    assert not found.best.in_budget
    assert "nothing holds the budget" in found.why
    enforce(found)


def test_impossible_contexts_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(
        InputError, match="a context of 9999 tokens is asked for, the model has 512"
    ):
        planned(tiny_checkpoint, context_length=9999)
    with pytest.raises(UsageError):
        planned(tiny_checkpoint, context_length=1)


@pytest.mark.parametrize("name", ["nothing-of-that-name", "no/such/path", "x.gguf", ""])
def test_a_model_that_is_not_there_is_explained(name: str) -> None:
    with pytest.raises(InputError):
        plan(name, BOARD, Wish(), NoProgress())


def test_a_broken_gguf_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(InputError):
        planned(path)


def invoke(command: click.Command, *words: str) -> Any:
    return CliRunner().invoke(command, words, standalone_mode=False)


def test_the_command_prints_stable_keys(tiny_checkpoint: Path) -> None:
    done = invoke(plan_command, str(tiny_checkpoint), "--device", "intel-n100", "--json")
    assert done.exception is None
    document = json.loads(done.stdout)
    keys = {"fits", "peak_memory_bytes", "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s",
            "scheme", "why", "uncertainty", "memory", "candidates"}  # fmt: skip
    assert keys <= document.keys()
    assert document["peak_memory_bytes"] == sum(document["memory"].values())
    assert len(document["candidates"]) == len(SCHEMES["gguf"]) + len(SCHEMES["onnx"])


def test_the_document_comes_before_the_refusal(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tiny = tmp_path / "watch.toml"
    text = (PROFILES / "raspberry-pi-5-8gb.toml").read_text()
    tiny.write_text(text.replace("usable_memory_bytes = 7_300_000_000", "usable_memory_bytes = 9"))
    done = invoke(plan_command, str(tiny_checkpoint), "--device", str(tiny), "--json")
    assert isinstance(done.exception, GateError)
    assert json.loads(done.stdout)["fits"] is False


def test_people_get_a_table_that_needs_no_colour(tiny_checkpoint: Path) -> None:
    done = invoke(plan_command, str(tiny_checkpoint), "--device", "raspberry-pi-4")
    assert done.exception is None
    assert "verdict" in done.stdout
    assert "gguf q4_k_m" in done.stdout
    assert "\x1b" not in done.stdout


def test_published_rows_are_printed_with_their_errors() -> None:
    done = invoke(devices_command, "--published")
    assert done.exception is None
    assert "raspberry-pi-5-8gb" in done.stdout
    assert "median error" in done.stdout
    document = json.loads(invoke(devices_command, "--published", "--json").stdout)
    assert {"rows", "accuracy"} <= document.keys()
    assert all(row["source"] for row in document["rows"])
