"""Qwen 3: Llama's graph with a norm on each query head and each key head."""

from __future__ import annotations

from converters.architectures.decoder import decoder_shape
from converters.architectures.settings import Settings
from converters.architectures.shape import ModelShape


def describe(settings: Settings) -> ModelShape:
    """Return the shape. A sliding window, which no released model uses, is refused."""
    if settings.flag("use_sliding_window", False):
        raise settings.error("use_sliding_window is true: windows per layer are not supported")
    bias = settings.flag("attention_bias", False)
    return decoder_shape(
        "qwen3",
        settings,
        qkv_bias=bias,
        attention_output_bias=bias,
        qk_norm=True,
        head_dim=128,
    )
