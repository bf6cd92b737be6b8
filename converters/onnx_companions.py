"""The files beside an ONNX model: its tokenizer, and the configuration of ONNX Runtime GenAI.

edgekit's own engine reads `tokenizer.json`; the rest is there so that the same folder loads in
GenAI (schema: https://onnxruntime.ai/docs/genai/reference/config.html).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from converters.architectures import ModelShape
from converters.checkpoint import Checkpoint
from converters.special_tokens import SpecialTokens, special_tokens, token_ids

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def write_companions(
    checkpoint: Checkpoint, shape: ModelShape, positions: int, folder: Path
) -> None:
    """Write them into `folder`; `positions` is the context length in tokens.

    Raises InputError if the checkpoint has no `tokenizer.json` or no token that ends a text.
    """
    special = special_tokens(checkpoint, token_ids(checkpoint), shape.vocabulary_size)
    for name in TOKENIZER_FILES:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)
    configuration = _genai_config(shape, special, positions)
    text = json.dumps(configuration, indent=2) + "\n"
    (folder / "genai_config.json").write_text(text, encoding="utf-8")


def _genai_config(shape: ModelShape, special: SpecialTokens, positions: int) -> dict[str, Any]:
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": shape.head_dim,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    return {
        "model": {
            "type": shape.family,
            "bos_token_id": special.eos if special.bos is None else special.bos,
            "eos_token_id": list(special.stop),
            "pad_token_id": special.eos if special.pad is None else special.pad,
            "vocab_size": shape.vocabulary_size,
            "context_length": positions,
            "decoder": decoder,
        },
        # one buffer for past and present keys and values: attention appends in place
        "search": {"do_sample": False, "max_length": positions, "past_present_share_buffer": True},
    }
