"""Qwen 2 and 2.5: Llama's graph with a bias on query, key and value."""

from __future__ import annotations

from converters.architectures.decoder import decoder_shape
from converters.architectures.settings import Settings
from converters.architectures.shape import ModelShape


def describe(settings: Settings) -> ModelShape:
    """Return the shape. A sliding window, which no released model uses, is refused."""
    if settings.flag("use_sliding_window", False):
        raise settings.error("use_sliding_window is true: windows per layer are not supported")
    return decoder_shape("qwen2", settings, qkv_bias=True)
