"""SmolLM2-135M through the ONNX engine: size, divergence, speed of a cancel, memory of a cache."""

from __future__ import annotations

import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.import_gguf import import_gguf
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress
from runtimes.engine import Interrupted
from runtimes.onnx_engine import OnnxEngine

from ..real_model import real_gguf

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "SmolLM2-135M-Instruct"
    folder.mkdir()
    import_gguf(real_gguf(), folder)
    return folder


@pytest.fixture(scope="module")
def artifacts(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("artifacts")
    opened = Checkpoint.open(checkpoint)
    return {
        scheme: convert(opened, Recipe.of("onnx", scheme), folder / scheme, progress=NoProgress())
        for scheme in ("int4", "int8")
    }


def test_int4_is_at_most_115_mb_with_nothing_substituted(artifacts: dict[str, Artifact]) -> None:
    assert artifacts["int4"].manifest.total_bytes <= 115_000_000
    assert not artifacts["int4"].manifest.substitutions
    assert artifacts["int4"].manifest.bits_per_weight < 5.5


@pytest.mark.parametrize(("scheme", "limit"), [("int8", 0.01), ("int4", 0.377)])
def test_divergence_from_the_checkpoint(
    checkpoint: Path, artifacts: dict[str, Artifact], scheme: str, limit: float
) -> None:
    """0.377 is what the model builder of ONNX Runtime GenAI leaves with its default settings."""
    import torch
    import transformers

    engine = OnnxEngine(artifacts[scheme], context_length=512, threads=2)
    text = Path(textwrap.__file__).read_text(encoding="utf-8")
    ids = engine.tokenize(text, special=False)[:512]
    rows = np.empty((len(ids), engine.vocabulary_size), dtype=np.float32)
    engine.score(ids, rows)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    found = torch.log_softmax(torch.from_numpy(rows).double(), dim=-1)
    assert float((wanted.exp() * (wanted - found)).sum(dim=-1).mean()) < limit


def test_cancel_of_a_long_prompt_takes_less_than_a_quarter_second(
    artifacts: dict[str, Artifact],
) -> None:
    engine = OnnxEngine(artifacts["int4"], context_length=4096, threads=2)
    prompt = [int(n) for n in np.random.default_rng(0).integers(10, 40_000, 2000)]
    for delay_s in (0.02, 0.2, 0.5):
        stopped: list[float] = []

        def stop(stopped: list[float] = stopped) -> None:
            stopped.append(time.perf_counter())
            engine.interrupt()

        threading.Timer(delay_s, stop).start()
        with pytest.raises(Interrupted):
            engine.evaluate(prompt)
        assert time.perf_counter() - stopped[0] < 0.25
        assert not engine.cached_tokens
    first = engine.evaluate(prompt[:8]).copy()
    engine.truncate(0)
    np.testing.assert_array_equal(engine.evaluate(prompt[:8]), first)
