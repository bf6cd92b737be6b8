"""The first start: whole, as the installer runs it, with real engines and tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtimes import cpu_variants

pytest.importorskip("llama_cpp")
pytest.importorskip("onnxruntime")


def first_start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-m", "runtimes.first_start", "--seconds", "0.5", *arguments]
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_it_proves_both_engines_and_writes_its_choice(
    tiny_artifacts: Path, edgekit_home: Path
) -> None:
    done = first_start("--artifacts", str(tiny_artifacts), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["works"]
    assert [(a["format"], a["tokens"]) for a in report["artifacts"]] == [("gguf", 1), ("onnx", 1)]
    assert report["state"] == str(edgekit_home / "cache" / "engine.json")
    rows = report["measured"]
    assert rows["gguf"][0]["decode_tokens_per_s"] > 0 < rows["onnx"][0]["prefill_tokens_per_s"]
    choice = cpu_variants.current_choice()
    assert choice.threads == {e: report["engines"][e]["threads"] for e in ("gguf", "onnx")}
    assert choice.variant == report["engines"]["gguf"]["variant"]


def test_without_artifacts_it_proves_that_the_libraries_load(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    done = first_start("--state", str(state), "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["engines"]) == {"gguf", "onnx"}
    choice = cpu_variants.read_choice(state)
    assert choice is not None
    assert choice.threads == {}  # nothing was measured


@pytest.mark.slow
def test_a_state_that_cannot_be_written_is_no_failure(tmp_path: Path, tiny_artifacts: Path) -> None:
    (tmp_path / "file").write_text("")
    state = tmp_path / "file" / "engine.json"  # also root cannot make a folder there
    done = first_start("--artifacts", str(tiny_artifacts), "--state", str(state), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] is None


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_artifact_ends_in_a_sentence_and_writes_nothing(
    tmp_path: Path, tiny_artifacts: Path, damage: str
) -> None:
    folder = tmp_path / "artifacts" / "bad"
    folder.mkdir(parents=True)
    for file in (tiny_artifacts / "gguf").iterdir():
        data = file.read_bytes()
        if file.suffix == ".gguf":
            data = data[:1000] if damage == "cut" else b"GGUF" + b"\xff" * (len(data) - 4)
        (folder / file.name).write_bytes(data)
    state = tmp_path / "state.json"
    done = first_start("--artifacts", str(folder.parent), "--state", str(state), "--json")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["works"] is False
    assert not state.exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = first_start("--artifacts", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "is no folder of artifacts" in done.stderr


@pytest.mark.slow
def test_privacy_mode_measures_too(tmp_path: Path, tiny_artifacts: Path) -> None:
    state = tmp_path / "state.json"
    arguments = ("--artifacts", str(tiny_artifacts), "--state", str(state), "--json")
    done = first_start(*arguments, EDGEKIT_PRIVATE="1")
    if done.returncode == 6:
        pytest.skip(f"this system cannot lock: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artifacts"]
