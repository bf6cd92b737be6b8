"""Estimate: the memory and the speed that a model will have on a device, before any work.

`require_memory` is the check before a load: a control group that is too small does not fail, it
makes an answer take minutes or kills the process without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from devices.detect import describe
from devices.memory import APPLE_FEATURES, pieces, reclaimable_bytes
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile
from devices.speed import FIXED_S, Costs, bound_by_memory, decode_s, prefill_s
from edgekit.errors import GateError
from edgekit.units import format_bytes

DEFAULT_PROMPT_TOKENS = 512
LEAST_CONTEXT = 512
# Shares of the figure. Memory: the worst of our own measurements. Decode: what most published rows
# (devices/published.toml) keep; a model that the cores bound is judged by kernels of another chip.
# Prefill: a judgement, as few figures are published.
MEMORY_UNCERTAINTY = 0.05
# torch's libraries are mapped files of hundreds of MB, and the system maps more or fewer pages
# around each touch, after how a file lies in its cache: 379 to 471 MB were seen of one tiny model.
MEMORY_UNCERTAINTY_TORCH = 0.16
DECODE_UNCERTAINTY, DECODE_UNCERTAINTY_COMPUTE, DECODE_UNCERTAINTY_MEASURED = 0.2, 0.4, 0.2
PREFILL_UNCERTAINTY, PREFILL_UNCERTAINTY_MEASURED = 0.5, 0.25


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is expected of a model on a device.

    `peak_memory_bytes` is what `edgekit bench` will show, the sum of `memory`.
    `needed_memory_bytes` leaves out what the system can take back without harm: that has to fit.
    `ttft_s` is for a prompt of `prompt_tokens`; speeds are for one conversation. `uncertainty`
    holds a share for each figure: 0.2 says that it may be a fifth more or less.
    """

    context_length: int
    prompt_tokens: int
    peak_memory_bytes: int
    needed_memory_bytes: int
    memory: dict[str, int]
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    ttft_s: float
    uncertainty: dict[str, float]


def estimate(
    model: ModelFacts,
    profile: DeviceProfile,
    *,
    context_length: int,
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
    costs: Costs | None = None,
) -> Estimate:
    """Return the estimate for a context of `context_length` tokens that is filled to its end.

    `costs` are what the profile's machine was measured to need; without them the profile's
    figures decide. A prompt longer than the context counts as the context.
    """
    prompt_tokens = max(1, min(prompt_tokens, context_length - 1))
    features = profile.cpu_features
    if profile.machine == "arm64":
        features = (*features, *APPLE_FEATURES)
    memory = pieces(model, features, context_length, prompt_tokens)
    peak = sum(memory.values())
    answer_tokens = max(1, (context_length - prompt_tokens) // 2)
    position = prompt_tokens + min(32, answer_tokens)
    first_s = prefill_s(model, profile, prompt_tokens, costs)
    return Estimate(
        context_length=context_length,
        prompt_tokens=prompt_tokens,
        peak_memory_bytes=peak,
        needed_memory_bytes=peak - reclaimable_bytes(model, memory),
        memory=memory,
        decode_tokens_per_s=1 / decode_s(model, profile, position, costs),
        prefill_tokens_per_s=prompt_tokens / max(first_s, FIXED_S),
        ttft_s=first_s,
        uncertainty=_uncertainty(model, profile, costs),
    )


def require_memory(model: ModelFacts, context_length: int, limit_bytes: int | None = None) -> None:
    """Raise GateError if loading `model` needs more memory than this process may use.

    `limit_bytes` is by default what the machine and its control group allow; unknown (0) passes.
    What can be taken back does not count, nor does what other programs use just now.
    """
    machine = describe()
    limit = machine.memory_bytes if limit_bytes is None else limit_bytes
    needed = _needed_bytes(model, machine.features, context_length)
    if 0 < limit < needed:
        raise GateError(
            f"{model.name} with a context of {context_length} tokens needs "
            f"{format_bytes(needed)} of memory, this process may use {format_bytes(limit)}",
            hint="choose a smaller scheme, a shorter context, or raise the limit; "
            "edgekit plan shows what fits",
        )


def context_that_fits(model: ModelFacts, most: int, limit_bytes: int | None = None) -> int:
    """Return `most` tokens of context, halved until they fit, but at least LEAST_CONTEXT or `most`.

    For a context that nobody asked for: half of one is better than none. Memory as above.
    """
    machine = describe()
    limit = machine.memory_bytes if limit_bytes is None else limit_bytes
    context = most
    while context // 2 >= LEAST_CONTEXT:
        if not 0 < limit < _needed_bytes(model, machine.features, context):
            break
        context //= 2
    return context


def _needed_bytes(model: ModelFacts, features: Sequence[str], context_length: int) -> int:
    memory = pieces(model, features, context_length, DEFAULT_PROMPT_TOKENS)
    return sum(memory.values()) - reclaimable_bytes(model, memory)


def memory_uncertainty(model: ModelFacts) -> float:
    """Return the share by which the peak may differ from what `devices.memory.pieces` says."""
    return MEMORY_UNCERTAINTY_TORCH if model.format == "torch" else MEMORY_UNCERTAINTY


def _uncertainty(
    model: ModelFacts, profile: DeviceProfile, costs: Costs | None
) -> dict[str, float]:
    decode = DECODE_UNCERTAINTY if bound_by_memory(model, profile) else DECODE_UNCERTAINTY_COMPUTE
    prefill = PREFILL_UNCERTAINTY
    if costs is not None:
        decode, prefill = DECODE_UNCERTAINTY_MEASURED, PREFILL_UNCERTAINTY_MEASURED
    return {
        "peak_memory_bytes": memory_uncertainty(model),
        "decode_tokens_per_s": decode,
        "prefill_tokens_per_s": prefill,
        "ttft_s": prefill,
    }
