"""How fast a model answers on a machine: from bytes per token, bandwidth and arithmetic.

A decoded token reads every weight once: the time is the memory's, or the cores' where their
kernels for the type are slower than the memory. A prompt multiplies every weight of the layers
once per token. It knows a profile's figures, or costs measured on a machine (see Costs), and no
engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from devices.memory import ONNX_BYTES_PER_BLOCK, ONNX_CODE_BYTES
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile

# Kernels against those of q8_0, for prompts: measured on a Zen 4 core (x86); for ARM with dot
# product, q4_0 and q6_k are from one published table of an RK3588
# (github.com/invisiofficial/rk-llama.cpp issue 9), and the others are our estimates.
PREFILL_FACTORS: dict[str, dict[str, float]] = {
    "x86": {
        "q8_0": 1.0, "q4_0": 1.25, "q4_k": 1.4, "iq4_nl": 1.1, "q6_k": 0.9, "q5_k": 0.9,
        "q5_0": 0.85, "q5_1": 0.85, "q4_1": 0.85, "q3_k": 0.8, "iq4_xs": 0.8, "f16": 0.85,
        "bf16": 0.85, "f32": 0.4, "int8": 1.15, "int4": 1.05, "int4_asymmetric": 1.05,
    },
    "arm": {
        "q8_0": 1.0, "q4_0": 1.03, "q4_k": 0.8, "iq4_nl": 0.9, "q6_k": 0.64, "q5_k": 0.64,
        "q5_0": 0.4, "q5_1": 0.4, "q4_1": 0.4, "q3_k": 0.4, "iq4_xs": 0.4, "f16": 0.5,
        "bf16": 0.4, "f32": 0.25, "int8": 0.9, "int4": 0.8, "int4_asymmetric": 0.8,
    },
}  # fmt: skip
# For one token the kernels wait for each weight: they reach this share of the prompt's rate, and
# relative to q8_0 the factors below (Zen 4; q4_0, q4_k and q6_k read half the bytes of q8_0).
DECODE_SHARE = 0.35
DECODE_FACTORS = {
    "q8_0": 1.0, "q4_0": 2.1, "q4_k": 2.2, "q6_k": 2.0, "q5_k": 1.3, "q5_0": 0.9, "q5_1": 0.9,
    "q4_1": 1.1, "iq4_nl": 1.1, "iq4_xs": 1.1, "q3_k": 1.2, "f16": 0.9, "bf16": 0.9, "f32": 0.5,
    "int8": 0.95, "int4": 0.95, "int4_asymmetric": 0.95,
}  # fmt: skip
# Bytes that torch moves for a weight and a token on a processor: floats are float32 there, and
# bitsandbytes writes out a whole nf4 matrix in float32 before it multiplies.
TORCH_TOKEN_BYTES = {"int8": 1.0, "nf4": 8.6}
SLOWEST = 0.4  # a type that is not in a table
# Starting and ending the operators of one layer, for one token; sampling one row of logits.
LAYER_S, SAMPLE_S_PER_LOGIT = 25e-6, 4e-9
ATTENTION_SHARE = 0.35  # of the prompt's rate: attention is done in half or single precision
BATCH_TOKENS = 256
FIXED_S = 0.01  # a request's way through the worker and back


@dataclass(frozen=True, slots=True)
class Costs:
    """What one machine was seen to need, in seconds, with `threads` threads.

    `decode_s_per_weight` and `prefill_s_per_weight` are by type; `token_s` is what a token costs
    in each layer beside the weights.
    """

    threads: int
    decode_s_per_weight: Mapping[str, float]
    prefill_s_per_weight: Mapping[str, float]
    token_s_per_layer: float


def decode_s(
    model: ModelFacts, profile: DeviceProfile, position: int, costs: Costs | None = None
) -> float:
    """Return the seconds of one token after `position` others."""
    bandwidth = 1e9 * profile.memory_bandwidth_gb_per_s
    layer_s = costs.token_s_per_layer if costs else LAYER_S
    matrices = sum(
        _decode_matrix_s(kind, weights, size, profile, costs)
        for kind, weights, size in _matrices(model)
    )
    cache = model.kv_bytes_per_token * position / bandwidth
    return matrices + cache + layer_s * model.layers + SAMPLE_S_PER_LOGIT * model.vocabulary_size


def bound_by_memory(model: ModelFacts, profile: DeviceProfile) -> bool:
    """Return whether the memory, not the cores, decides how fast `model` decodes."""
    bandwidth = 1e9 * profile.memory_bandwidth_gb_per_s
    memory = sum(size / bandwidth for _, _, size in _matrices(model))
    cores = sum(_decode_compute_s(kind, count, profile) for kind, count, _ in _matrices(model))
    return memory >= cores


def prefill_s(
    model: ModelFacts, profile: DeviceProfile, prompt_tokens: int, costs: Costs | None = None
) -> float:
    """Return the seconds from a prompt of `prompt_tokens` tokens to its first logits."""
    rate = 1e9 * profile.compute_gflops
    per_token = sum(
        _prefill_weights_s(kind, weights, profile, costs)
        for kind, weights in model.block_weights.items()
    )
    batches = math.ceil(prompt_tokens / BATCH_TOKENS)
    reading = batches * model.read_bytes_per_token / (1e9 * profile.memory_bandwidth_gb_per_s)
    pairs = prompt_tokens * (prompt_tokens + 1) / 2
    attention = 4 * model.layers * model.hidden_size * pairs / (rate * ATTENTION_SHARE)
    output = _decode_matrix_s(
        model.output_type, model.output_weights, model.output_bytes, profile, costs
    )
    return max(per_token * prompt_tokens + attention, reading) + output + FIXED_S


def _matrices(model: ModelFacts) -> list[tuple[str, int, float]]:
    """Return type, number of weights and bytes that are read of each kind of matrix."""
    found = [
        (kind, weights, float(model.block_bytes[kind]))
        for kind, weights in model.block_weights.items()
    ]
    found.append((model.output_type, model.output_weights, float(model.output_bytes)))
    match model.format:
        case "gguf":
            return found
        case "onnx":
            # its packed copy: codes, and a scale and a sum in float32 for 32 weights
            return [(kind, count, _packed_bytes(kind, count)) for kind, count, _ in found]
        case "torch":
            return [(k, count, TORCH_TOKEN_BYTES.get(k, 4.0) * count) for k, count, _ in found]


def matrix_s_per_weight(
    kind: str, bytes_per_weight: float, profile: DeviceProfile, costs: Costs | None = None
) -> float:
    """Return the seconds that one weight of a matrix takes of each decoded token.

    `kind` is a type of either format. For choosing between types: see `decode_s` for a model.
    """
    count = 1 << 20
    size = _packed_bytes(kind, count) if kind.startswith("int") else bytes_per_weight * count
    return _decode_matrix_s(kind, count, size, profile, costs) / count


def _packed_bytes(kind: str, weights: int) -> float:
    if kind in ONNX_BYTES_PER_BLOCK:
        return (ONNX_CODE_BYTES[kind] + 8 / 32) * weights
    return 4.0 * weights


def _decode_matrix_s(
    kind: str, weights: int, size: float, profile: DeviceProfile, costs: Costs | None
) -> float:
    if costs is not None and kind in costs.decode_s_per_weight:
        return weights * costs.decode_s_per_weight[kind]
    memory = size / (1e9 * profile.memory_bandwidth_gb_per_s)
    return max(memory, _decode_compute_s(kind, weights, profile))


def _decode_compute_s(kind: str, weights: int, profile: DeviceProfile) -> float:
    rate = 1e9 * profile.compute_gflops * DECODE_SHARE * DECODE_FACTORS.get(kind, SLOWEST)
    return 2 * weights / rate


def _prefill_weights_s(
    kind: str, weights: int, profile: DeviceProfile, costs: Costs | None
) -> float:
    if costs is not None and kind in costs.prefill_s_per_weight:
        return weights * costs.prefill_s_per_weight[kind]
    family = "x86" if profile.machine in ("x86_64", "AMD64", "i686") else "arm"
    factor = PREFILL_FACTORS[family].get(kind, SLOWEST)
    return 2 * weights / (1e9 * profile.compute_gflops * factor)
