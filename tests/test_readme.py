"""The README tells the truth: its tree exists, its commands are the commands there are."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    """Return every edgekit command of the README's shell blocks, split into words."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("edgekit ")]


def test_the_tree_exists() -> None:
    tree = next(block for block in blocks("") if block.startswith("edgekit/"))
    above: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], line.split()[0]]
        assert ROOT.joinpath(*above).is_dir(), line


def test_the_command_table_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^\| `edgekit (\w+)", README, re.MULTILINE)
    assert listed == list(cli.commands)


@pytest.mark.parametrize("name", list(cli.commands))
def test_every_command_has_help_that_works(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in "\n".join(blocks("sh")).splitlines():
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE)


def test_the_training_configuration_in_the_readme_is_one(tmp_path: Path) -> None:
    from edgekit.train.configuration import SECTIONS, read_configuration

    path = tmp_path / "run.toml"
    path.write_text(blocks("toml")[0])
    (tmp_path / "chats.jsonl").touch()
    found = read_configuration(path)
    assert (found.method, found.train.epochs) == ("lora", 3)
    chapter = README.split("## A model of your own")[1].split("\n## ")[0]
    for section in SECTIONS.values():
        for key in section.__dataclass_fields__:
            assert re.search(rf"\b{key}\b", chapter), key


def test_the_recipe_in_the_readme_is_one(tmp_path: Path) -> None:
    from converters.recipe import Recipe

    path = tmp_path / "my.toml"
    path.write_text(blocks("toml")[1])
    assert Recipe.named(str(path)).scheme == "iq4_nl"


@pytest.mark.model
def test_the_readme_story_runs_from_pull_to_answer(tmp_path: Path) -> None:
    environment = os.environ | {"EDGEKIT_HOME": str(tmp_path)}
    environment.pop("OMP_NUM_THREADS", None)  # every core, as a user has
    # Minutes each, and done elsewhere: a bundle compiles llama.cpp for the device (tests/arm), a
    # search measures every tensor (tests/edgekit/tune), a calibration writes its own text
    # (test_rounding_real_model.py).
    story = [w for w in commands() if w[0] not in ("bundle", "tune") and "--calibrate" not in w]
    for words in story:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3
