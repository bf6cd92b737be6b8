"""Mistral: Llama's graph, and in its first version a sliding window of attention."""

from __future__ import annotations

from converters.architectures.decoder import decoder_shape
from converters.architectures.settings import Settings
from converters.architectures.shape import ModelShape


def describe(settings: Settings) -> ModelShape:
    """Return the shape. An absent window means the 4096 of version 0.1, a null means none."""
    window = settings.count("sliding_window") if settings.has("sliding_window") else None
    if "sliding_window" not in settings.values:
        window = 4096
    return decoder_shape("mistral", settings, sliding_window=window)
