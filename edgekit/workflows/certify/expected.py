"""What a model file must say of its model, from the checkpoint, in the words of no format.

The hyperparameters come from transformers' own reading of `config.json`, so that a mistake in
edgekit's reading of it shows as a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape
from converters.checkpoint import Checkpoint
from converters.special_tokens import SpecialTokens, special_tokens, token_ids
from edgekit.artifact import Format
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.privacy import quiet

FAMILIES: dict[str, dict[str, str]] = {
    "gguf": {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"},
    "torch": {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"},
    "onnx": {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"},
}
NO_WINDOW = -1


@dataclass(frozen=True, slots=True)
class Expected:
    """`numbers` are hyperparameters by name, as in `stored.Said`."""

    numbers: dict[str, Any]
    special: SpecialTokens
    config: Any


def expect(checkpoint: Checkpoint, shape: ModelShape, format_name: Format) -> Expected:
    """Return what a file of `format_name` must say of `checkpoint`. Raises InputError."""
    config = _read(checkpoint)
    special = special_tokens(checkpoint, token_ids(checkpoint), shape.vocabulary_size)
    return Expected(_numbers(config, format_name), special, config)


def _read(checkpoint: Checkpoint) -> Any:
    with quiet.applied():
        transformers = need("transformers", "convert")
        try:
            return transformers.AutoConfig.from_pretrained(
                checkpoint.path, local_files_only=True, trust_remote_code=False
            )
        except (ValueError, KeyError, OSError) as error:
            raise InputError(f"transformers cannot read {checkpoint.path}: {error}") from error


def _numbers(config: Any, format_name: Format) -> dict[str, Any]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None)
    longest = config.max_position_embeddings
    return {
        "architecture": FAMILIES.get(format_name, {}).get(config.model_type),
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": head_dim,
        "value_dim": head_dim,
        "rotated_dim": head_dim,
        "norm_epsilon": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "context_length": min(longest, window or longest),
        "vocabulary": config.vocab_size,
        "scale": head_dim**-0.5,
        "window": window or NO_WINDOW,
    }


def rotary_tables(config: Any, positions: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return cosines and sines of `positions`, computed by transformers: [positions, head / 2]."""
    torch = need("torch", "convert")
    need("transformers", "convert")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary = LlamaRotaryEmbedding(config)
    with torch.inference_mode():
        pair = rotary(torch.zeros(1, dtype=torch.float32), torch.from_numpy(positions)[None])
    return [table[0, :, : table.shape[-1] // 2].numpy() for table in pair]
