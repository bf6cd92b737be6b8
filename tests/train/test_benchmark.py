"""The benchmark measures real steps, and says so in the same figures to people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from edgekit.errors import UsageError
from edgekit.train.benchmark import main


def test_it_measures_full_weights_and_adapters(tiny_checkpoint: Path, edgekit_home: Path) -> None:
    words = [str(tiny_checkpoint), "--length", "64", "--batch-tokens", "128", "--steps", "2"]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    full, lora = found["results"]
    weights = sum(t.bytes for t in Checkpoint.open(tiny_checkpoint).tensors.values()) // 4
    assert (full["method"], full["trained_parameters"]) == ("full", weights)
    assert (lora["method"], lora["trained_parameters"] < weights / 4) == ("lora:8", True)
    for one in (full, lora):
        assert one["tokens_per_s"] * one["step_s"] == pytest.approx(128, rel=0.01)
        assert 0 < one["mfu"] < 1.5
        assert one["peak_memory_bytes"] > 4 * weights
    assert not list((edgekit_home / "cache" / "training").iterdir())
    result = CliRunner().invoke(main, [*words, "--method", "lora:x"])
    assert isinstance(result.exception, UsageError)
