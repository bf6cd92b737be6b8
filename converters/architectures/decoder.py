"""What the four families share: reading a decoder's numbers out of `config.json`.

Defaults are those of transformers' configuration classes, because a key that equals its default
may be absent from the file.
"""

from __future__ import annotations

import math

from converters.architectures.settings import Settings
from converters.architectures.shape import ModelShape, RopeScaling


def decoder_shape(
    family: str,
    settings: Settings,
    *,
    qkv_bias: bool = False,
    attention_output_bias: bool = False,
    feed_forward_bias: bool = False,
    qk_norm: bool = False,
    sliding_window: int | None = None,
    head_dim: int | None = None,
) -> ModelShape:
    """Return the shape of a decoder of `family`; the keyword arguments are what families vary.

    `head_dim` is the family's default for an absent key; None means `hidden_size` over heads.
    Raises InputError for a number that is missing or impossible, and for an activation other
    than SiLU or a kind of rotary embedding that the engines cannot compute.
    """
    hidden, heads = settings.count("hidden_size"), settings.count("num_attention_heads")
    if settings.text("hidden_act", "silu") != "silu":
        raise settings.error(
            f"hidden_act is {settings.values['hidden_act']!r}, only silu is supported"
        )
    shape = ModelShape(
        family=family,
        layers=settings.count("num_hidden_layers"),
        hidden=hidden,
        intermediate=settings.count("intermediate_size"),
        heads=heads,
        kv_heads=settings.count("num_key_value_heads", heads),
        head_dim=settings.count("head_dim", head_dim or max(1, hidden // heads)),
        vocabulary_size=settings.count("vocab_size"),
        context_length=settings.count("max_position_embeddings"),
        rms_norm_epsilon=settings.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(settings),
        rope_scaling=_rope_scaling(settings),
        sliding_window=sliding_window,
        tied_embeddings=settings.flag("tie_word_embeddings", False),
        qkv_bias=qkv_bias,
        attention_output_bias=attention_output_bias,
        feed_forward_bias=feed_forward_bias,
        qk_norm=qk_norm,
    )
    _check_heads(shape, settings)
    return shape


def _check_heads(shape: ModelShape, settings: Settings) -> None:
    if shape.heads % shape.kv_heads:
        raise settings.error(
            f"{shape.heads} attention heads cannot share {shape.kv_heads} key-value heads"
        )
    if shape.head_dim % 2:
        raise settings.error(f"head_dim is {shape.head_dim}; rotary embeddings need an even number")
    if settings.number("partial_rotary_factor", 1.0) != 1.0:
        raise settings.error("partial_rotary_factor is not 1: partial rotation is not supported")


def _rope_settings(settings: Settings) -> Settings | None:
    # transformers 5 writes rope_parameters, which holds the base as well
    return settings.section("rope_parameters") or settings.section("rope_scaling")


def _rope_theta(settings: Settings) -> float:
    rope = settings.section("rope_parameters")
    if rope is not None and rope.has("rope_theta"):
        return rope.number("rope_theta")
    return settings.number("rope_theta", 10000.0)


def _rope_scaling(settings: Settings) -> RopeScaling | None:
    rope = _rope_settings(settings)
    if rope is None:
        return None
    kind = rope.text("rope_type", rope.text("type", "default"))
    context_length = settings.count("max_position_embeddings")
    match kind:
        case "default":
            return None
        case "linear":
            return RopeScaling("linear", rope.number("factor"), context_length)
        case "llama3":
            return _llama3(rope)
        case "yarn":
            return _yarn(rope, context_length)
    raise rope.error(
        f"rotary scaling {kind!r:.40} is not supported", hint="supported: linear, llama3, yarn"
    )


def _llama3(rope: Settings) -> RopeScaling:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.error(f"low_freq_factor is {low}, not below high_freq_factor, which is {high}")
    return RopeScaling(
        "llama3",
        rope.number("factor"),
        rope.count("original_max_position_embeddings"),
        low_frequency_factor=low,
        high_frequency_factor=high,
    )


def _yarn(rope: Settings, context_length: int) -> RopeScaling:
    if rope.has("mscale") or rope.has("mscale_all_dim") or not rope.flag("truncate", True):
        raise rope.error("yarn with mscale, mscale_all_dim or truncate = false is not supported")
    factor = rope.number("factor")
    return RopeScaling(
        "yarn",
        factor,
        rope.count("original_max_position_embeddings", context_length),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.number("attention_factor", 0.1 * math.log(max(factor, 1.0)) + 1.0),
    )
