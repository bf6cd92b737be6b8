"""edgekit tune, and convert with a budget and with more care, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.cli import cli
from edgekit.errors import EdgekitError

TEXT = "A kettle boils at 100 degrees. The quick brown fox jumps over 12345 lazy dogs.\n" * 40


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def mistake(*words: str | Path) -> EdgekitError:
    error = call(*words).exception
    assert isinstance(error, EdgekitError), error
    return error


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_budget_becomes_a_recipe_a_picture_and_an_artifact(
    tiny_checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    recipe, picture = tmp_path / "small.toml", tmp_path / "front.png"
    done = call(
        "tune", tiny_checkpoint, "--max-size", "900KB", "--text", text, "-o", recipe,
        "--picture", picture, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["bytes"] <= 900_000
    assert found["kld_measured"] < min(p["kld_measured"] for p in found["points"] if p["is_preset"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert Recipe.named(str(recipe)).per_tensor == found["per_tensor"]
    out = tmp_path / "artifact"
    words = ("--calibration", text, "-o", out, "--json")
    made = call("convert", tiny_checkpoint, "--max-size", "900KB", *words)
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["bytes"] <= 900_000
    assert Artifact.open(out).manifest.source.recipe["per_tensor"] == found["per_tensor"]


@pytest.mark.slow
def test_people_see_a_table_and_the_next_step(
    tiny_checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.toml"
    words = ("--device", "raspberry-pi-5-8gb", "--max-size", "900KB", "--text", text, "-o", recipe)
    done = call("tune", tiny_checkpoint, *words)
    assert done.exit_code == 0, done.output
    assert "KL measured" in done.stdout
    assert "expected" in done.stdout
    assert f"--recipe {recipe} --calibrate" in done.stdout


@pytest.mark.slow
def test_more_care_is_recorded(tiny_checkpoint: Path, text: Path, tmp_path: Path) -> None:
    words = ("--format", "gguf", "--scheme", "q4_0", "--calibration", text)
    for option, method in (("--compensate", "compensated"), ("--distil", "distilled")):
        out = tmp_path / method
        extra = ("--steps", "2") if option == "--distil" else ()
        done = call("convert", tiny_checkpoint, *words, option, *extra, "-o", out)
        assert done.exit_code == 0, done.output
        facts = Artifact.open(out).manifest.source.recipe["rounding"]
        assert facts["method"] == method
        assert facts["text"] == "text.txt"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tune"], 2, "no budget"),
        (["tune", "--max-size", "many"], 2, "not a size"),
        (["tune", "--max-size", "1MB", "--min-tokens-per-s", "3"], 2, "a speed is a device's"),
        (["tune", "--device", "toaster"], 3, "toaster"),
        (["tune", "--max-size", "1MB", "--text", "/nowhere"], 3, "/nowhere"),
        (["convert", "--max-size", "1MB", "--recipe", "gguf-q8_0"], 2, "a budget chooses"),
        (["convert", "--steps", "3"], 2, "--steps belongs to --distil"),
        (["convert", "--format", "torch", "--scheme", "nf4", "--distil"], 2, "bitsandbytes"),
    ],
)
def test_mistakes_get_a_sentence(
    words: list[str], code: int, said: str, tiny_checkpoint: Path
) -> None:
    command, *options = words
    error = mistake(command, tiny_checkpoint, *options)
    assert error.exit_code == code
    assert said in error.message


def test_a_folder_that_exists_is_refused_before_the_work(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    # Without a text the model would write its own: this one could not even be loaded.
    error = mistake("convert", tiny_checkpoint, "--distil", "-o", tmp_path)
    assert "exists already" in error.message
