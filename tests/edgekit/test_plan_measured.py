"""The plan's memory against what bench sees of the real 135M model.

Its speed is compared in tests/benchmarks/plan_speed.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.import_gguf import import_gguf
from converters.recipe import Recipe
from devices.estimate import estimate
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile, load_profile
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress
from edgekit.workflows.bench import Workload, bench

from ..real_model import real_gguf

pytestmark = pytest.mark.model
SCHEMES = [
    ("gguf", "q8_0"), ("gguf", "q4_k_m"), ("gguf", "iq4_nl"), ("onnx", "int8"), ("onnx", "int4"),
]  # fmt: skip


@pytest.fixture(scope="module")
def artifacts() -> Iterator[list[Artifact]]:
    """Return the five artifacts of the demo. Removed at once: they have half a gigabyte."""
    with tempfile.TemporaryDirectory(prefix="edgekit-plan-") as folder:
        checkpoint = Path(folder) / "checkpoint"
        checkpoint.mkdir()
        import_gguf(real_gguf(), checkpoint)
        source = Checkpoint.open(checkpoint)
        yield [
            convert(
                source,
                Recipe.of(known_format, scheme),
                Path(folder) / f"{known_format}-{scheme}",
                progress=NoProgress(),
            )
            for known_format, scheme in SCHEMES
        ]


@pytest.fixture(scope="module")
def this() -> DeviceProfile:
    return load_profile("this")


@pytest.mark.parametrize("prompt_tokens", [256, 1500])
@pytest.mark.parametrize("index", range(len(SCHEMES)), ids=["-".join(s) for s in SCHEMES])
def test_peak_memory_is_that_of_bench(
    artifacts: list[Artifact], this: DeviceProfile, index: int, prompt_tokens: int
) -> None:
    workload = Workload(prompt_tokens, answer_tokens=16, rounds=1)
    result = bench(artifacts[index], workload, NoProgress(), threads=1)
    found = estimate(
        ModelFacts.of(artifacts[index]),
        this,
        context_length=prompt_tokens + 16,
        prompt_tokens=prompt_tokens,
    )
    assert found.peak_memory_bytes == pytest.approx(result.peak_rss_bytes, rel=0.05)
