"""The files beside a torch model's weights: `config.json` and what transformers wants to find.

The configuration is written from the model's shape, never copied: a key that nobody looked at
could name code or other files. It knows no weight.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from converters.architectures import ModelShape, RopeScaling
from converters.checkpoint import Checkpoint
from converters.onnx_companions import TOKENIZER_FILES
from converters.special_tokens import SpecialTokens, special_tokens, token_ids
from converters.torch_layout import Layout
from edgekit.bitsandbytes_layout import quantisation_config

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"


def write_companions(
    checkpoint: Checkpoint, shape: ModelShape, layout: Layout, folder: Path
) -> None:
    """Write the configurations and the tokenizer's files into `folder`.

    Raises InputError if the checkpoint has no `tokenizer.json` or no token that ends a text.
    """
    special = special_tokens(checkpoint, token_ids(checkpoint), shape.vocabulary_size)
    for name in TOKENIZER_FILES:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)
    _write(folder / CONFIG, model_config(checkpoint.architecture, shape, layout, special))
    _write(folder / GENERATION_CONFIG, _ids(special) | {"eos_token_id": list(special.stop)})


def model_config(
    architecture: str, shape: ModelShape, layout: Layout, special: SpecialTokens
) -> dict[str, Any]:
    """Return `config.json`, with the keys that transformers 4.57 reads for the four families."""
    found: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": shape.family,
        "torch_dtype": layout.float_name,
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.rms_norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_scaling": _rope_scaling(shape.rope_scaling),
        "tie_word_embeddings": shape.tied_embeddings,
        "sliding_window": shape.sliding_window,
        "use_cache": True,
    }
    if shape.family in ("llama", "qwen3"):
        found["attention_bias"] = shape.qkv_bias
    if shape.family == "llama":
        found["mlp_bias"] = shape.feed_forward_bias
    if layout.kind is not None:
        found["quantization_config"] = quantisation_config(
            layout.kind, layout.float_name, layout.kept_modules
        )
    return found | _ids(special)


def _ids(special: SpecialTokens) -> dict[str, int | None]:
    return {
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.eos if special.pad is None else special.pad,
    }


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    common = {"rope_type": scaling.kind, "factor": scaling.factor}
    match scaling.kind:
        case "linear":
            return common
        case "llama3":
            return common | {
                "original_max_position_embeddings": scaling.original_context_length,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
            }
        case "yarn":
            return common | {
                "original_max_position_embeddings": scaling.original_context_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
            }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
