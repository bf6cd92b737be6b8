"""The command line on a tiny real model: each command's JSON, and each kind of mistake."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from devices.profile import PROFILES
from edgekit.cli import main

SCHEMES = (("gguf", "q8_0"), ("onnx", "int8"))


def edgekit(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a user's shell does.

    `check` runs in this one: that torch is imported takes longer than all that it does.
    """
    if words[0] == "check":
        return in_this_process(*words)
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *words], input=text, capture_output=True, text=True
    )


def in_this_process(*words: str) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["edgekit", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(words, ended.value.code, out.getvalue(), err.getvalue())


def json_of(*words: str, text: str | None = None) -> dict[str, Any]:
    """Run a command that must succeed and print one JSON document."""
    done = edgekit(*words, "--json", text=text)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def refused(exit_code: int, *words: str, text: str | None = None) -> str:
    """Run a command that must fail with one clear sentence; return its stderr."""
    done = edgekit(*words, text=text)
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module", params=SCHEMES, ids=lambda scheme: "-".join(scheme))
def artifact(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny"
    format_name, scheme = request.param
    options = ("--format", format_name, "--scheme", scheme, "-o", str(folder))
    document = json_of("convert", str(tiny_checkpoint), *options)
    assert document["artifact"] == str(folder)
    assert document["bytes"] == sum(
        p.stat().st_size for p in folder.iterdir() if p.name != "edgekit.json"
    )
    assert 8 <= document["bits_per_weight"] < 11
    assert document["substitutions"] == []
    assert document["seconds"] > 0
    assert document["peak_rss_bytes"] > 10e6
    return folder


def test_check_certifies_and_stores_it(artifact: Path, tiny_checkpoint: Path) -> None:
    document = json_of("check", str(artifact), "--against", str(tiny_checkpoint))
    assert document["token_ids_equal"] is True
    assert 0 < document["kld_mean"] < 0.01
    assert document["kld_mean"] <= document["kld_p99"]
    assert document["noise_floor"] < 1e-6
    assert document["top1_agreement"] > 0.9
    assert document["perplexity"] == pytest.approx(document["perplexity_source"], rel=0.05)
    assert document["positions"] > 2000
    manifest = json.loads((artifact / "edgekit.json").read_text())
    assert manifest["certificate"] == document


def test_check_refuses_another_checkpoint(artifact: Path, make_checkpoint: Any) -> None:
    other = make_checkpoint("qwen2")
    message = refused(3, "check", str(artifact), "--against", str(other))
    assert "was not made from" in message


def test_check_gates(artifact: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("A text of one's own, about nothing in particular. " * 8)
    words = ("check", str(artifact), "--against", str(tiny_checkpoint), "--text", str(text))
    done = edgekit(*words, "--max-kld", "0.000000001")
    assert done.returncode == 5
    assert "at most 1e-09 was asked" in done.stderr


def test_run_answers_and_counts(artifact: Path) -> None:
    document = json_of("run", str(artifact), "hello there", "--max-tokens", "5")
    assert document["tokens"] <= 5
    assert document["prompt_tokens"] > 5
    assert document["ttft_s"] > 0
    assert document["finish"] in ("length", "stop")


def test_run_reads_a_pipe_and_repeats_a_seed(artifact: Path) -> None:
    words = ("run", str(artifact), "--max-tokens", "12", "--temperature", "1.5", "--seed", "3")
    answers = {json_of(*words, text="tell me more\n")["text"] for _ in range(2)}
    assert len(answers) == 1


@pytest.mark.slow
def test_a_saved_state_is_reused_and_one_of_another_artifact_refused(
    artifact: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    story = "once upon a time there was a kettle " * 6
    words = ("run", str(artifact), "--max-tokens", "4", "--state", str(state))
    first = json_of(*words, story + "who boils?")
    second = json_of(*words, story + "what for?")
    assert first["reused_tokens"] == 0
    assert second["reused_tokens"] > 0.8 * second["prompt_tokens"]
    fresh = json_of("run", str(artifact), "--max-tokens", "4", story + "what for?")
    assert second["text"] == fresh["text"]
    state.write_bytes(state.read_bytes()[:-9])
    assert str(state) in refused(3, *words, story)


def test_a_prompt_longer_than_the_context_says_both_lengths(artifact: Path) -> None:
    message = refused(3, "run", str(artifact), "word " * 600, "--context", "128")
    assert "128" in message


def test_bench_measures(artifact: Path) -> None:
    options = ("--prompt-tokens", "64", "--answer-tokens", "8", "--rounds", "1")
    document = json_of("bench", str(artifact), *options)
    for key in ("load_s", "ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s"):
        assert document[key] > 0
    assert document["peak_rss_bytes"] > 10e6
    assert document["roofline_share"] > 0  # a tiny model lies in the cache: it may exceed 1


def test_bench_holds_a_device_to_its_budget(artifact: Path, tmp_path: Path) -> None:
    profile = tmp_path / "dream.toml"
    text = (PROFILES / "raspberry-pi-5-8gb.toml").read_text()
    profile.write_text(text.replace("budget_tokens_per_s = 8.0", "budget_tokens_per_s = 1e9"))
    options = ("--prompt-tokens", "16", "--answer-tokens", "4", "--rounds", "1")
    done = edgekit("bench", str(artifact), *options, "--device", str(profile))
    assert done.returncode == 5
    assert "the budget of dream is 1e+09" in done.stderr


def test_inspect_knows_artifact_and_checkpoint(artifact: Path, tiny_checkpoint: Path) -> None:
    assert json_of("inspect", str(artifact), "--verify")["verified"] is True
    assert json_of("inspect", str(tiny_checkpoint))["architecture"] == "LlamaForCausalLM"


def test_an_existing_folder_is_not_overwritten(artifact: Path, tiny_checkpoint: Path) -> None:
    before = (artifact / "edgekit.json").read_bytes()
    message = refused(3, "convert", str(tiny_checkpoint), "-o", str(artifact))
    assert "exists already" in message
    assert (artifact / "edgekit.json").read_bytes() == before


def test_a_dry_run_shows_the_plan_and_writes_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = json_of("convert", str(tiny_checkpoint), "-o", str(out), "--dry-run")
    assert document["bytes"] > 0
    assert len(document["tensors"]) > 10
    assert not out.exists()


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (2, ["nonsense"]),
        (2, ["convert"]),
        (2, ["run", "x", "hi", "--temperature", "warm"]),
        (3, ["convert", "no-such-checkpoint"]),
        (3, ["run", "no-such-artifact", "hi"]),
        (3, ["inspect", "no-such-path"]),
        (3, ["pull", "no-such-folder"]),
        (3, ["pull", "pypi:requests"]),
    ],
)
def test_mistakes_get_a_sentence_and_their_code(exit_code: int, words: list[str]) -> None:
    assert refused(exit_code, *words)


def test_a_scheme_needs_its_format(tiny_checkpoint: Path) -> None:
    assert "go together" in refused(2, "convert", str(tiny_checkpoint), "--scheme", "q8_0")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "pickled" in refused(3, "convert", str(tmp_path))


@pytest.mark.parametrize("no_colour", [False, True])
def test_no_color_is_respected(no_colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "edgekit", "inspect", "no-such-path"]
    subprocess.run(command, stderr=child, check=False)
    os.close(child)
    output = os.read(parent, 4096)
    os.close(parent)
    assert b"error:" in output
    assert (b"\x1b[" in output) != no_colour


def test_chat_works_in_a_pipe() -> None:
    done = edgekit("chat", "--echo", text="good morning\n")
    assert done.returncode == 0, done.stderr
    assert "good morning" in done.stdout
