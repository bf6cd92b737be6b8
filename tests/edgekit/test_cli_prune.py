"""edgekit prune on the command line: its JSON, what it prints, and each kind of mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgekit.cli
from converters.checkpoint import Checkpoint
from converters.lineage import read_stage
from edgekit.progress import NoProgress
from edgekit.workflows.inspect import inspect

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `edgekit prune`: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgekit", "prune", *map(str, words)])
        code = edgekit.cli._run()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The lazy dog boils a kettle at 100 degrees; über 12345.\n" * 12, "utf-8")
    return file


def document_of(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def test_kinds_combine_in_the_order_that_is_promised(
    make_checkpoint: Callable[..., Path], tmp_path: Path, text: Path, run: Run
) -> None:
    source = make_checkpoint("qwen3", num_hidden_layers=3, intermediate_size=320)
    out = tmp_path / "out"
    document = document_of(
        run(source, "-o", out, "--text", text, "--vocabulary", text, "--sparsity", "2:4",
            "--kv-groups", 1, "--feed-forward", 300, "--layers", "1", "--json")
    )  # fmt: skip
    kinds = ["layers", "feed-forward", "attention groups", "single weights", "vocabulary"]
    assert [step["kind"] for step in document["steps"]] == kinds
    assert document["path"] == str(out)
    made = Checkpoint.open(out)
    stage = read_stage(made)
    assert stage is not None
    assert {"path": str(out), **stage.how} == document
    shown = inspect(out, verify=False, progress=NoProgress())
    assert (shown["stage"], shown["made_from"], shown["how"]) == ("pruned", str(source), stage.how)
    assert made.config["num_hidden_layers"] == 2
    assert made.config["intermediate_size"] == 256
    assert made.config["num_key_value_heads"] == 1
    assert made.config["vocab_size"] < Checkpoint.open(source).config["vocab_size"]
    assert made.parameters == document["weights_after"] < document["weights_before"]
    verdict = document["verdict"]
    assert verdict["pruned"]["bytes"] >= verdict["unpruned"]["bytes"]
    worse = verdict["pruned"]["perplexity"] > verdict["unpruned"]["perplexity"]
    assert verdict["advice"] == ("do not prune" if worse else "prune")


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    tiny_checkpoint: Path, tmp_path: Path, text: Path, run: Run
) -> None:
    out = tmp_path / "out"
    code, shown, _ = run(tiny_checkpoint, "-o", out, "--drop", "1", "--dry-run", "--text", text)
    assert code == 0
    assert not out.exists()
    assert "removed layers 1" in shown
    assert "verdict" in shown
    assert "checkpoint" not in shown


def test_zeros_are_reported_as_what_they_are(tiny_checkpoint: Path, text: Path, run: Run) -> None:
    code, shown, _ = run(tiny_checkpoint, "--sparsity", "0.5", "--dry-run", "--text", text)
    assert code == 0
    assert "50.0% of the layers' weights are zero" in shown
    assert "neither engine faster nor the file smaller" in shown
    assert "do not prune" in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "nothing is asked"),
        (("--layers", "2"), 2, "2 of 2 layers"),
        (("--layers", "0"), 2, "0 of 2 layers"),
        (("--layers", "-1"), 2, "not a number of layers"),
        (("--layers", "1", "--drop", "1"), 2, "give one"),
        (("--drop", "2"), 2, "2 layers"),
        (("--drop", "a"), 2, "not a list"),
        (("--drop", ""), 2, "not a list"),
        (("--feed-forward", "512"), 2, "512 units"),
        (("--feed-forward", "-1"), 2, "512 units"),
        (("--kv-groups", "2"), 2, "2 key-value heads"),
        (("--sparsity", "2:5"), 2, "not a multiple of 5"),
        (("--sparsity", "1.5"), 2, "no share"),
        (("--drop", "1", "--text", "{tmp}/none"), 3, "cannot be read"),
        (("--drop", "1", "--text", "{tmp}/binary"), 3, "cannot be read"),
        (("--drop", "1", "--text", "{tmp}/short"), 3, "pieces of at least"),
        (("--vocabulary", "{tmp}/binary", "--text", "{tmp}/text.txt"), 3, "cannot be read"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(
    words: tuple[str, ...], code: int, message: str, tiny_checkpoint: Path, tmp_path: Path,
    text: Path, run: Run,
) -> None:  # fmt: skip
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "short").write_text("one line")
    before = sorted(tmp_path.iterdir())
    named = [word.format(tmp=tmp_path) for word in words]
    found, out, err = run(tiny_checkpoint, "-o", tmp_path / "out", *named)
    assert (found, out) == (code, "")
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_where_to_write_is_asked_before_any_work(
    tiny_checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    code, _, err = run(tiny_checkpoint, "--drop", "1")
    assert (code, "-o is missing" in err) == (2, True)
    code, _, err = run(tiny_checkpoint, "--drop", "1", "-o", tmp_path)
    assert (code, "exists already" in err) == (3, True)
