"""bench: how fast an artifact answers on this machine, and how near that is to its roofline."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

from devices.detect import read_bandwidth_bytes_per_s
from devices.profile import DeviceProfile
from edgekit.artifact import Artifact, Manifest
from edgekit.errors import GateError
from edgekit.files import write_atomically
from edgekit.progress import Progress
from edgekit.store import cache
from edgekit.units import format_bytes
from runtimes.base import Runtime
from runtimes.latency import Latency, measure
from runtimes.load import load


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured: tokens of prompt and of answer, and how often."""

    prompt_tokens: int = 512
    answer_tokens: int = 64
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Bench:
    """Medians over the rounds. `decode_tokens_per_s_range` is the slowest and the fastest round.

    `roofline_share` is decode speed times the bytes that a token reads (all weights, and the KV
    cache up to its position) over the memory bandwidth measured between the same rounds.
    """

    load_s: float
    ttft_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_tokens_per_s_range: tuple[float, float]
    peak_rss_bytes: int
    roofline_share: float
    bandwidth_bytes_per_s: float
    prompt_tokens: int
    answer_tokens: int
    rounds: int
    threads: int


def bench(
    artifact: Artifact,
    workload: Workload,
    progress: Progress,
    *,
    threads: int | None = None,
) -> Bench:
    """Load `artifact` and measure it. Raises InputError if its context is too short for that."""
    context_length = workload.prompt_tokens + workload.answer_tokens
    start = time.perf_counter()
    runtime = load(artifact, context_length=context_length, threads=threads)
    load_s = time.perf_counter() - start
    try:
        rounds = _rounds(runtime, workload, progress)
        peak_rss_bytes, used_threads = runtime.peak_rss_bytes, runtime.threads
    finally:
        runtime.close()
    speeds = [latency.decode_tokens_per_s for latency, _ in rounds]
    return Bench(
        load_s=load_s,
        ttft_s=median(latency.ttft_s for latency, _ in rounds),
        prefill_tokens_per_s=median(latency.prefill_tokens_per_s for latency, _ in rounds),
        decode_tokens_per_s=median(speeds),
        decode_tokens_per_s_range=(min(speeds), max(speeds)),
        peak_rss_bytes=peak_rss_bytes,
        roofline_share=median(_share(artifact.manifest, latency, b) for latency, b in rounds),
        bandwidth_bytes_per_s=median(bandwidth for _, bandwidth in rounds),
        prompt_tokens=workload.prompt_tokens,
        answer_tokens=workload.answer_tokens,
        rounds=workload.rounds,
        threads=used_threads,
    )


def remember(artifact: Artifact, result: Bench) -> None:
    """Keep a result in the cache, under the artifact's content."""
    write_atomically(_cache_file(artifact), json.dumps(asdict(result)).encode())


def recall(artifact: Artifact) -> Bench | None:
    """Return what `remember` kept for an artifact with the same content, or None."""
    try:
        values = json.loads(_cache_file(artifact).read_bytes())
        values["decode_tokens_per_s_range"] = tuple(values["decode_tokens_per_s_range"])
        return Bench(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def enforce(result: Bench, profile: DeviceProfile) -> None:
    """Raise GateError if `result` misses a budget of `profile`; the message has both numbers."""
    where = f"the budget of {profile.name}"
    hint = "choose a smaller scheme or a shorter prompt, or widen the budget"
    if 0 < profile.budget_ttft_s < result.ttft_s:
        found, asked = f"{result.ttft_s:.2f} s", f"{profile.budget_ttft_s:g} s"
        raise GateError(f"the first token takes {found}, {where} is {asked}", hint)
    if result.decode_tokens_per_s < profile.budget_tokens_per_s:
        found, asked = f"{result.decode_tokens_per_s:.1f}", f"{profile.budget_tokens_per_s:g}"
        raise GateError(f"decode reaches {found} tokens/s, {where} is {asked}", hint)
    if 0 < profile.budget_peak_memory_bytes < result.peak_rss_bytes:
        found = format_bytes(result.peak_rss_bytes)
        asked = format_bytes(profile.budget_peak_memory_bytes)
        raise GateError(f"the engine takes {found} of memory, {where} is {asked}", hint)


def weight_bytes_per_token(manifest: Manifest) -> float:
    """Return the bytes of weights that one decoded token reads: all of them."""
    return manifest.bits_per_weight * manifest.parameters / 8


def _rounds(
    runtime: Runtime, workload: Workload, progress: Progress
) -> list[tuple[Latency, float]]:
    prompt = _prompt(runtime, workload.prompt_tokens)
    measure(runtime, prompt[:32], 4)  # the first answer pays for pages and buffers
    found: list[tuple[Latency, float]] = []
    with progress.task("measuring", workload.rounds, unit="rounds") as advance:
        for turn in range(1, workload.rounds + 1):
            bandwidth = read_bandwidth_bytes_per_s(seconds=0.15)
            # Another beginning each round: a reused prefix would not be prefill.
            latency = measure(runtime, prompt[turn:] + prompt[:turn], workload.answer_tokens)
            found.append((latency, bandwidth))
            advance(1)
    return found


def _prompt(runtime: Runtime, length: int) -> list[int]:
    text = (files("edgekit.workflows") / "texts" / "prose.txt").read_text("utf-8")
    token_ids = runtime.tokenize(text)
    return (token_ids * (length // len(token_ids) + 1))[:length]


def _share(manifest: Manifest, latency: Latency, bandwidth_bytes_per_s: float) -> float:
    position = latency.prompt_tokens + latency.answer_tokens / 2
    token_bytes = weight_bytes_per_token(manifest) + manifest.kv_bytes_per_token * position
    return latency.decode_tokens_per_s * token_bytes / bandwidth_bytes_per_s


def _cache_file(artifact: Artifact) -> Path:
    entry = next(f for f in artifact.manifest.files if f.path == artifact.manifest.entry)
    largest = max(artifact.manifest.files, key=lambda file: file.bytes)
    return cache() / "bench" / f"{entry.sha256[:16]}-{largest.sha256[:16]}.json"
