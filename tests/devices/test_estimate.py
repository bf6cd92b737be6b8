"""The estimate against the worker's real memory, for every architecture and both engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from devices.estimate import LEAST_CONTEXT, context_that_fits, estimate, require_memory
from devices.memory import pieces, repacked_bytes
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile, load_profile
from edgekit.artifact import Artifact
from edgekit.errors import GateError, InputError
from edgekit.progress import NoProgress
from runtimes.latency import measure
from runtimes.load import load

BOARD = load_profile("raspberry-pi-5-8gb")


@pytest.fixture(scope="session")
def this_device() -> DeviceProfile:
    return load_profile("this")


@pytest.fixture(scope="session")
def make_artifact(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Artifact]:
    folder = tmp_path_factory.mktemp("artifacts")

    def make(architecture: str, known_format: str, scheme: str) -> Artifact:
        out = folder / f"{architecture}-{known_format}-{scheme}"
        if out.exists():
            return Artifact.open(out)
        checkpoint = make_checkpoint(architecture, max_position_embeddings=2048)
        recipe = Recipe.of(known_format, scheme)
        return convert(Checkpoint.open(checkpoint), recipe, out, progress=NoProgress())

    return make


# What the libraries' pages may be off by; see devices/memory.py. Of a real model it is little.
LIBRARY_PAGES_BYTES = 5_000_000
CASES = [
    ("llama", "gguf", "q4_0"),
    ("qwen2", "gguf", "q8_0"),
    ("qwen3", "onnx", "int4"),
    ("mistral", "onnx", "int8"),
    ("llama", "torch", "nf4"),
]


@pytest.mark.parametrize(
    ("architecture", "known_format", "scheme", "context_length"),
    [(*case, 1600) for case in CASES] + [(*case, 320) for case in CASES[:3:2]],
)
def test_memory_is_predicted(
    make_artifact: Callable[..., Artifact],
    this_device: DeviceProfile,
    architecture: str,
    known_format: str,
    scheme: str,
    context_length: int,
) -> None:
    """Within a twentieth, and for torch within a sixth, of what a tiny model takes."""
    artifact = make_artifact(architecture, known_format, scheme)
    runtime = load(artifact, context_length=context_length, threads=1)
    try:
        prompt = [5 + index % 300 for index in range(context_length - 8)]
        measure(runtime, prompt, 8)
        peak = runtime.peak_rss_bytes
    finally:
        runtime.close()
    found = estimate(
        ModelFacts.of(artifact),
        this_device,
        context_length=context_length,
        prompt_tokens=context_length - 8,
    )
    allowed = found.uncertainty["peak_memory_bytes"] * peak + LIBRARY_PAGES_BYTES
    assert abs(found.peak_memory_bytes - peak) < allowed


@pytest.mark.parametrize(("architecture", "known_format", "scheme"), CASES)
def test_facts_are_read_from_the_artifact(
    make_artifact: Callable[..., Artifact], architecture: str, known_format: str, scheme: str
) -> None:
    artifact = make_artifact(architecture, known_format, scheme)
    facts = ModelFacts.of(artifact)
    assert (facts.layers, facts.hidden_size, facts.intermediate_size) == (2, 256, 512)
    assert facts.kv_bytes_per_token == artifact.manifest.kv_bytes_per_token
    assert facts.vocabulary_size == artifact.manifest.vocabulary_size
    assert facts.tied
    matrices = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)
    assert facts.multiplied_weights == pytest.approx(matrices, rel=0.005)


def test_context_and_prompt_cost_memory_and_time(make_artifact: Callable[..., Artifact]) -> None:
    facts = ModelFacts.of(make_artifact("llama", "gguf", "q4_0"))
    short = estimate(facts, BOARD, context_length=512, prompt_tokens=100)
    long = estimate(facts, BOARD, context_length=2048, prompt_tokens=100)
    talkative = estimate(facts, BOARD, context_length=2048, prompt_tokens=1000)
    assert long.memory["KV cache"] == 4 * short.memory["KV cache"]
    assert long.peak_memory_bytes == sum(long.memory.values())
    assert talkative.ttft_s > long.ttft_s
    assert talkative.decode_tokens_per_s < long.decode_tokens_per_s
    assert all(0 < share < 1 for share in short.uncertainty.values())


def test_a_faster_memory_decodes_faster(make_artifact: Callable[..., Artifact]) -> None:
    """A model as large as memory is wide: half the bandwidth, half the speed."""
    facts = ModelFacts.of(make_artifact("llama", "gguf", "q4_0"))
    large = replace(facts, block_bytes={"q4_0": 10**10}, block_weights={"q4_0": 16 * 10**9})
    slow = replace(BOARD, memory_bandwidth_gb_per_s=BOARD.memory_bandwidth_gb_per_s / 2)
    fast = estimate(large, BOARD, context_length=512).decode_tokens_per_s
    assert estimate(large, slow, context_length=512).decode_tokens_per_s == pytest.approx(
        fast / 2, rel=0.02
    )


def test_weights_are_copied_only_where_the_processor_wants_them(
    make_artifact: Callable[..., Artifact],
) -> None:
    facts = ModelFacts.of(make_artifact("llama", "gguf", "q4_0"))
    assert repacked_bytes(facts, ("asimd",)) == 0
    assert repacked_bytes(facts, ("avx2",)) == facts.block_bytes["q4_0"]
    assert repacked_bytes(facts, ("asimddp",)) == facts.read_bytes_per_token
    plain = pieces(facts, (), 512, 128)
    copied = pieces(facts, ("asimddp",), 512, 128)
    assert sum(copied.values()) - sum(plain.values()) == facts.read_bytes_per_token


def test_what_can_be_taken_back_need_not_fit(make_artifact: Callable[..., Artifact]) -> None:
    facts = ModelFacts.of(make_artifact("llama", "gguf", "q4_0"))
    found = estimate(facts, BOARD, context_length=512)
    assert found.peak_memory_bytes - found.needed_memory_bytes == found.memory["repacked weights"]


def test_a_load_beyond_the_limit_is_refused_with_both_numbers(
    make_artifact: Callable[..., Artifact],
) -> None:
    model = ModelFacts.of(make_artifact("llama", "gguf", "q4_0"))
    require_memory(model, 512, limit_bytes=200_000_000)
    require_memory(model, 512, limit_bytes=0)  # unknown: nothing to hold it to
    with pytest.raises(GateError, match=r"needs [56]\d\.\d MB of memory, .* may use 40\.0"):
        require_memory(model, 512, limit_bytes=40_000_000)


def test_a_context_that_nobody_asked_for_is_halved_until_it_fits(
    make_artifact: Callable[..., Artifact],
) -> None:
    model = ModelFacts.of(make_artifact("llama", "gguf", "q4_0"))
    assert context_that_fits(model, 4096, limit_bytes=0) == 4096
    roomy, tight = 200_000_000, 64_000_000
    assert context_that_fits(model, 4096, limit_bytes=roomy) == 4096
    chosen = context_that_fits(model, 4096, limit_bytes=tight)
    assert LEAST_CONTEXT <= chosen < 4096
    require_memory(model, chosen, limit_bytes=tight)
    with pytest.raises(GateError):
        require_memory(model, 2 * chosen, limit_bytes=tight)
    assert context_that_fits(model, 4096, limit_bytes=1) == LEAST_CONTEXT
    assert context_that_fits(model, 300, limit_bytes=1) == 300


def test_a_header_that_lies_is_refused(
    make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    entry = make_artifact("llama", "gguf", "q4_0").entry
    damaged = tmp_path / "model.gguf"
    data = entry.read_bytes()
    damaged.write_bytes(data.replace(b"llama.block_count", b"llama.block_kount"))
    with pytest.raises(InputError, match="block_count"):
        ModelFacts.of_gguf(damaged)
    damaged.write_bytes(data[:1000])
    with pytest.raises(InputError):
        ModelFacts.of_gguf(damaged)


@pytest.mark.parametrize("value", ['"many"', "-3", "0", "1e99", "null", "[]"])
def test_a_companion_that_lies_is_refused(
    make_artifact: Callable[..., Artifact], tmp_path: Path, value: str
) -> None:
    shared = make_artifact("qwen3", "onnx", "int4")
    artifact = replace(shared, path=tmp_path)
    text = (shared.path / "genai_config.json").read_text()
    changed = text.replace('"hidden_size": 256', f'"hidden_size": {value}')
    (tmp_path / "genai_config.json").write_text(changed)
    with pytest.raises(InputError, match="hidden_size"):
        ModelFacts.of(artifact)
