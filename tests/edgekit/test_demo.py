"""The demo on a tiny model: five artifacts, a table, a picture; the second run makes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run_demo(source: Path, picture: Path) -> dict[str, Any]:
    """Run the demo and return its JSON document."""
    words = ["demo", "--source", str(source), "--picture", str(picture), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow
def test_the_second_run_reuses_what_the_first_made(tiny_checkpoint: Path, tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    first = run_demo(tiny_checkpoint, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    names = [Path(row["artifact"]).name for row in first["artifacts"]]
    schemes = ("gguf-q8_0", "gguf-q4_k_m", "gguf-iq4_nl", "onnx-int8", "onnx-int4")
    assert names == [f"tiny-{scheme}" for scheme in schemes]
    for row in first["artifacts"]:
        assert row["check"]["token_ids_equal"] is True
        assert row["bench"]["decode_tokens_per_s"] > 0
    eight_bits, four_bits = first["artifacts"][0], first["artifacts"][4]
    assert eight_bits["check"]["kld_mean"] < 0.01 < four_bits["check"]["kld_mean"]
    assert run_demo(tiny_checkpoint, picture) == first
