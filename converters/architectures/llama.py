"""Llama 1 to 3, and what has its graph: SmolLM2, TinyLlama, Yi and others."""

from __future__ import annotations

from converters.architectures.decoder import decoder_shape
from converters.architectures.settings import Settings
from converters.architectures.shape import ModelShape


def describe(settings: Settings) -> ModelShape:
    """Return the shape. `attention_bias` and `mlp_bias` put a bias on every projection."""
    attention_bias = settings.flag("attention_bias", False)
    return decoder_shape(
        "llama",
        settings,
        qkv_bias=attention_bias,
        attention_output_bias=attention_bias,
        feed_forward_bias=settings.flag("mlp_bias", False),
    )
