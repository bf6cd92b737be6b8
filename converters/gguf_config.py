"""GGUF config: the configuration files of a checkpoint, from GGUF metadata.

It reads no tensor but the tiny table of rotary factors, and trusts no number: what it returns is
checked again by `converters.architectures` like any checkpoint's configuration.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.gguf_header import GgufHeader

# general.architecture, and the class and model type of transformers that has its graph. Mistral
# is a "llama" to GGUF, known by its sliding window.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}
_ROPE_KEYS = ("type", "factor", "original_context_length", "attn_factor", "finetuned")
# GGUF stores only the result of Llama 3.1's rule; these settings are the same in every release,
# and the importer compares what they give with the file.
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def model_config(header: GgufHeader, rope_factors: NDArray[np.float32] | None) -> dict[str, Any]:
    """Return `config.json` for the model in `header`.

    `rope_factors` is the content of the tensor `rope_freqs.weight`, float32 [head_dim / 2], or
    None where the file has none. Raises InputError for an unknown architecture and for metadata
    that is missing, of the wrong type or has no counterpart in the configuration.
    """
    numbers = _Numbers(header)
    class_name, model_type = _architecture(header)
    names = {tensor.name for tensor in header.tensors}
    heads = numbers.count("attention.head_count")
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "torch_dtype": "float32",
        "vocab_size": _vocabulary_size(header),
        "hidden_size": numbers.count("embedding_length"),
        "intermediate_size": numbers.count("feed_forward_length"),
        "num_hidden_layers": numbers.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": numbers.count("attention.head_count_kv", heads),
        "head_dim": _head_dim(numbers, heads),
        "hidden_act": "silu",
        "max_position_embeddings": numbers.count("context_length"),
        "rms_norm_eps": numbers.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": numbers.real("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(numbers, rope_factors),
        "tie_word_embeddings": "output.weight" not in names,
        "use_cache": True,
    }
    return config | _family_settings(numbers, model_type, names) | _special_ids(header)


def generation_config(header: GgufHeader) -> dict[str, Any]:
    """Return `generation_config.json`: the special tokens, every one that ends an answer."""
    config = _special_ids(header)
    ends = [
        header.get(key, int)
        for name in ("eos", "eot", "eom")
        if (key := f"tokenizer.ggml.{name}_token_id") in header.metadata
    ]
    ends = list(dict.fromkeys(ends))
    if len(ends) > 1:
        config["eos_token_id"] = ends
    return config


class _Numbers:
    """Takes numbers that are stored under the architecture's name."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header

    def has(self, key: str) -> bool:
        return f"{self.header.architecture}.{key}" in self.header.metadata

    def count(self, key: str, default: int | None = None) -> int:
        return self.header.get(f"{self.header.architecture}.{key}", int, default)

    def text(self, key: str, default: str) -> str:
        return self.header.get(f"{self.header.architecture}.{key}", str, default)

    def real(self, key: str, default: float | None = None) -> float:
        """Return the shortest decimal that is the stored float32: 1e-05, not 9.99999974e-06."""
        value = self.header.get(f"{self.header.architecture}.{key}", float, default)
        return float(str(np.float32(value)))

    def error(self, what: str) -> InputError:
        return InputError(f"{self.header.path}: {what}")


def _architecture(header: GgufHeader) -> tuple[str, str]:
    name = header.architecture
    if name not in ARCHITECTURES:
        raise InputError(
            f"{header.path} has the architecture {name!r:.40}, which edgekit does not import",
            hint=f"supported: {', '.join(ARCHITECTURES)}",
        )
    if "split.count" in header.metadata and header.metadata["split.count"] != 1:
        raise InputError(
            f"{header.path} is one of {header.metadata['split.count']} parts of a model",
            hint="join them with llama.cpp's llama-gguf-split --merge",
        )
    if name == "llama" and f"{name}.attention.sliding_window" in header.metadata:
        return "MistralForCausalLM", "mistral"
    return ARCHITECTURES[name]


def _vocabulary_size(header: GgufHeader) -> int:
    """Return the number of rows of the embedding, which must be the number of tokens."""
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(f"{header.path} has no matrix token_embd.weight")
    tokens = len(header.get_list("tokenizer.ggml.tokens", str))
    if embedding.shape[1] != tokens:
        raise InputError(
            f"{header.path}: the embedding has {embedding.shape[1]} rows for {tokens} tokens"
        )
    return tokens


def _head_dim(numbers: _Numbers, heads: int) -> int:
    if heads < 1:
        raise numbers.error(f"attention.head_count is {heads}")
    head_dim = numbers.count("attention.key_length", numbers.count("embedding_length") // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if numbers.count(key, head_dim) != head_dim:
            raise numbers.error(
                f"{key} is {numbers.count(key)} and a head has {head_dim}; they must be equal"
            )
    return head_dim


def _family_settings(numbers: _Numbers, model_type: str, names: set[str]) -> dict[str, Any]:
    if model_type == "mistral":
        return {"sliding_window": numbers.count("attention.sliding_window")}
    if model_type == "qwen2":
        return {"use_sliding_window": False}
    biased = {"attention_bias": "blk.0.attn_q.bias" in names}
    if model_type == "qwen3":
        return biased | {"use_sliding_window": False}
    return biased | {"mlp_bias": "blk.0.ffn_gate.bias" in names}


def _special_ids(header: GgufHeader) -> dict[str, Any]:
    keys = {"bos": "bos", "eos": "eos", "padding": "pad"}
    return {
        f"{name}_token_id": header.get(key, int)
        for gguf_name, name in keys.items()
        if (key := f"tokenizer.ggml.{gguf_name}_token_id") in header.metadata
    }


def _rope_scaling(numbers: _Numbers, factors: NDArray[np.float32] | None) -> dict[str, Any] | None:
    prefix = f"{numbers.header.architecture}.rope.scaling."
    for key in numbers.header.metadata:
        if key.startswith(prefix) and key.removeprefix(prefix) not in _ROPE_KEYS:
            raise numbers.error(f"{key} has no counterpart in a checkpoint's configuration")
    kind = numbers.text("rope.scaling.type", "none")
    if factors is not None and (factors != 1.0).any():
        return {**LLAMA3_SCALING, "factor": float(factors.max())}
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise numbers.error(f"rotary scaling {kind!r:.40} is not supported")
    factor = numbers.real("rope.scaling.factor")
    yarn = _yarn(numbers, factor) if kind == "yarn" else {}
    return {"rope_type": kind, "factor": factor, **yarn}


def _yarn(numbers: _Numbers, factor: float) -> dict[str, Any]:
    original = numbers.count("rope.scaling.original_context_length")
    scaling: dict[str, Any] = {"original_max_position_embeddings": original}
    if numbers.has("rope.scaling.attn_factor"):
        # the key holds what differs from the paper's factor (Peng et al. 2023, equation 22)
        paper = 0.1 * math.log(max(factor, 1.0)) + 1.0
        scaling["attention_factor"] = paper * numbers.real("rope.scaling.attn_factor")
    return scaling
