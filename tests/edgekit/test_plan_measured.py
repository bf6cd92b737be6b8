"""The plan against what bench sees of the real 135M model, and with kernels timed here.

Speeds are compared by the worker's processor time, in turns: other programs on the machine then
count neither for the prediction nor for the measurement.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

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
from edgekit.workflows.plan_kernels import Kernels, kinds_of
from runtimes.base import Runtime
from runtimes.client import WorkerRuntime
from runtimes.latency import measure
from runtimes.load import load

from ..real_model import real_gguf

pytestmark = pytest.mark.model
SCHEMES = [
    ("gguf", "q8_0"), ("gguf", "q4_k_m"), ("gguf", "iq4_nl"), ("onnx", "int8"), ("onnx", "int4"),
]  # fmt: skip
PROMPT_TOKENS, ANSWER_TOKENS, ROUNDS = 256, 24, 3


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


def processor_clock(runtime: Runtime) -> Callable[[], float]:
    """Return a clock that reads the processor time of the runtime's worker, in seconds."""
    assert isinstance(runtime, WorkerRuntime)
    tasks = Path(f"/proc/{runtime.worker_pid}/task")

    def now() -> float:
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        )

    return now


def test_decode_speed_is_that_of_the_timed_kernels(
    artifacts: list[Artifact], this: DeviceProfile
) -> None:
    """The kernels are timed on another model; the median error over the five is judged too."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not tell a thread's processor time")
    facts = [ModelFacts.of(artifact) for artifact in artifacts]
    context_length = PROMPT_TOKENS + ANSWER_TOKENS
    seen: list[list[float]] = [[] for _ in artifacts]
    runtimes = [load(a, context_length=context_length, threads=1) for a in artifacts]
    try:
        with Kernels(kinds_of(facts), 1, NoProgress(), processor_clock) as kernels:
            for turn in range(ROUNDS):
                kernels.run()
                for speeds, runtime in zip(seen, runtimes, strict=True):
                    prompt = [100 + turn + 3 * index for index in range(PROMPT_TOKENS)]
                    latency = measure(runtime, prompt, ANSWER_TOKENS, processor_clock(runtime))
                    speeds.append(latency.decode_tokens_per_s)
            costs = kernels.costs()
    finally:
        for runtime in runtimes:
            runtime.close()
    errors = {}
    for model, speeds in zip(facts, seen, strict=True):
        found = estimate(
            model,
            this,
            context_length=context_length,
            prompt_tokens=PROMPT_TOKENS,
            costs=costs[model.format],
        )
        errors[model.name] = found.decode_tokens_per_s / median(speeds) - 1
    assert median(abs(error) for error in errors.values()) < 0.15, errors
    assert max(abs(error) for error in errors.values()) < 0.3, errors
