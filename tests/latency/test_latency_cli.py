"""edgekit latency: the table, the document, the files and the exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from devices.profile import PROFILES
from edgekit.cli.latency import latency
from edgekit.errors import GateError, InputError


@pytest.fixture
def home(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_HOME", str(tiny_home))
    return tiny_home


def run(*arguments: str) -> Result:
    return CliRunner().invoke(latency, [*arguments, "--prompt-tokens", "64"])


@pytest.fixture
def strict_board(tmp_path: Path) -> Path:
    """Return a profile that asks for a million tokens a second."""
    text = (PROFILES / "raspberry-pi-5-8gb.toml").read_text()
    changed = re.sub(
        r"^budget_tokens_per_s = .*$", "budget_tokens_per_s = 1e6", text, count=1, flags=re.M
    )
    assert changed != text
    path = tmp_path / "strict.toml"
    path.write_text(changed)
    return path


@pytest.mark.usefixtures("home")
def test_a_board_and_two_artifacts_make_a_table() -> None:
    done = run("gguf", "onnx", "--device", "raspberry-pi-5-8gb", "--no-rehearsal")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["device", "gguf", "q8_0", "onnx", "int8"]
    assert lines[2].startswith("raspberry-pi-5-8gb")
    assert lines[2].count("✓") == 2
    assert "*" not in lines[2]


@pytest.mark.usefixtures("home")
def test_json_is_one_document_and_the_files_are_there(tmp_path: Path) -> None:
    done = run(
        "gguf", "--device", "raspberry-pi-4", "--no-rehearsal", "--json", "-o", str(tmp_path / "o")
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["cells"][0]["device"] == "raspberry-pi-4"
    names = sorted(Path(path).name for path in document["files"])
    assert names == ["latency-dark.png", "latency.json", "latency.md", "latency.png"]
    assert all(Path(path).stat().st_size > 100 for path in document["files"])


@pytest.mark.usefixtures("home")
def test_a_missed_budget_of_a_named_device_is_a_gate(strict_board: Path) -> None:
    done = run("gguf", "--device", str(strict_board), "--no-rehearsal")
    assert isinstance(done.exception, GateError)
    assert "budget 1e+06" in done.exception.message
    assert "✗" in done.stdout  # the table is printed all the same


@pytest.mark.usefixtures("home")
def test_an_unknown_device_is_a_sentence() -> None:
    done = run("gguf", "--device", "raspbery-pi-4", "--no-rehearsal")
    assert isinstance(done.exception, InputError)
    assert "raspberry-pi-4" in done.exception.hint


@pytest.mark.usefixtures("home")
def test_without_an_artifact_it_is_a_usage_error() -> None:
    assert CliRunner().invoke(latency, []).exit_code == 2
