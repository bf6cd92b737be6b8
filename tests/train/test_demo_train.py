"""demo --train on a tiny model: it trains, converts, asks, and the second run makes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import cli
from edgekit.workflows import demo_train as workflow
from edgekit.workflows import language_job
from edgekit.workflows import train as train_workflow

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_the_second_run_reuses_what_the_first_made(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workflow.FOLDER, tmp_path / "demonstration")
    shorter = tmp_path / "demonstration" / workflow.CONFIGURATION.name
    text = shorter.read_text().replace("epochs = 5", "steps = 6").replace("= 50", "= 8")
    shorter.write_text(text)
    monkeypatch.setattr(workflow, "CONFIGURATION", shorter)
    source = make_checkpoint("llama", hidden_size=64, intermediate_size=128)
    words = ["demo", "--train", "--source", str(source)]
    first = CliRunner().invoke(cli, [*words, "--json"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["after"]["perplexity"] < found["before"]["perplexity"]
    assert found["before"]["answers"]["asked"] == 8
    names = [Path(artifact["path"]).name for artifact in found["artifacts"]]
    schemes = ("gguf-q8_0", "gguf-q4_k_m", "onnx-int8", "onnx-int4")
    assert names == [f"tiny-edgekit-{scheme}" for scheme in schemes]
    assert all(len(artifact["questions"]) == 8 for artifact in found["artifacts"])
    with monkeypatch.context() as patch:
        patch.setattr(language_job, "read_data", None)
        patch.setattr(train_workflow, "run_request", None)
        second = CliRunner().invoke(cli, words)
    assert second.exit_code == 0, second.output
    rows = [line.split("  ")[0] for line in second.stdout.splitlines()]
    assert [*rows[3:5], rows[8]] == ["before training", "after training", "onnx int4"]
    assert "edgekit chat tiny-edgekit-gguf-q8_0" in second.stdout
