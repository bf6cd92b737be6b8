"""ModelShape: what a decoder's configuration says, typed and checked, and the tensors it implies.

It knows neither GGUF nor ONNX: an exporter asks it for numbers and for tensors by role.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Literal

RopeKind = Literal["linear", "llama3", "yarn"]


class Role(StrEnum):
    """What a tensor does in the model. The value is the name's middle part in a checkpoint."""

    EMBEDDING = "model.embed_tokens"
    OUTPUT_NORM = "model.norm"
    OUTPUT = "lm_head"
    ATTENTION_NORM = "input_layernorm"
    QUERY = "self_attn.q_proj"
    KEY = "self_attn.k_proj"
    VALUE = "self_attn.v_proj"
    ATTENTION_OUTPUT = "self_attn.o_proj"
    QUERY_NORM = "self_attn.q_norm"
    KEY_NORM = "self_attn.k_norm"
    FEED_FORWARD_NORM = "post_attention_layernorm"
    GATE = "mlp.gate_proj"
    UP = "mlp.up_proj"
    DOWN = "mlp.down_proj"


Part = Literal["weight", "bias"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that a model of some shape must have. `layer` is None outside the layers."""

    role: Role
    layer: int | None
    part: Part
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return the tensor's name in a checkpoint, such as `model.layers.3.mlp.up_proj.weight`."""
        prefix = "" if self.layer is None else f"model.layers.{self.layer}."
        return f"{prefix}{self.role}.{self.part}"


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary embeddings are stretched beyond the context that the model was trained on.

    `linear` divides positions by `factor`. `llama3` divides low frequencies and blends those
    between (Llama 3.1 model card); it uses `low_frequency_factor` and `high_frequency_factor`.
    `yarn` (Peng et al. 2023, arXiv 2309.00071) uses `beta_fast`, `beta_slow` and multiplies
    cosine and sine by `attention_factor`.
    """

    kind: RopeKind
    factor: float
    original_context_length: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The facts of a decoder with RMS norms, rotary positions and a gated (SwiGLU) feed-forward.

    `query_size` and `key_value_size` are the widths of the projections: heads times `head_dim`,
    which need not be `hidden`. `sliding_window` is None where attention sees the whole context.
    `context_length` counts tokens.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    rms_norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    sliding_window: int | None
    tied_embeddings: bool
    qkv_bias: bool
    attention_output_bias: bool
    feed_forward_bias: bool
    qk_norm: bool

    @property
    def query_size(self) -> int:
        """Return the number of rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Return the number of rows of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim

    @property
    def usable_context(self) -> int:
        """Return how many tokens attention sees at once: a sliding window ends the context.

        Beyond it an engine without windows, such as llama.cpp's llama, would answer otherwise.
        """
        return min(self.context_length, self.sliding_window or self.context_length)

    @property
    def parameters(self) -> int:
        """Return the number of weights, a tied embedding counted once."""
        return sum(prod(spec.shape) for spec in self.tensors())

    def tensors(self) -> Iterator[TensorSpec]:
        """Yield every tensor of the model in the order of computation, the tied output excluded."""
        yield TensorSpec(Role.EMBEDDING, None, "weight", (self.vocabulary_size, self.hidden))
        for layer in range(self.layers):
            yield from self._layer_tensors(layer)
        yield TensorSpec(Role.OUTPUT_NORM, None, "weight", (self.hidden,))
        if not self.tied_embeddings:
            yield TensorSpec(Role.OUTPUT, None, "weight", (self.vocabulary_size, self.hidden))

    def _layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        def norm(role: Role, size: int) -> TensorSpec:
            return TensorSpec(role, layer, "weight", (size,))

        yield norm(Role.ATTENTION_NORM, self.hidden)
        for role, rows, columns, bias in self._projections():
            yield TensorSpec(role, layer, "weight", (rows, columns))
            if bias:
                yield TensorSpec(role, layer, "bias", (rows,))
        if self.qk_norm:
            yield norm(Role.QUERY_NORM, self.head_dim)
            yield norm(Role.KEY_NORM, self.head_dim)
        yield norm(Role.FEED_FORWARD_NORM, self.hidden)

    def _projections(self) -> Iterator[tuple[Role, int, int, bool]]:
        """Yield role, rows (outputs), columns (inputs) and whether there is a bias."""
        yield Role.QUERY, self.query_size, self.hidden, self.qkv_bias
        yield Role.KEY, self.key_value_size, self.hidden, self.qkv_bias
        yield Role.VALUE, self.key_value_size, self.hidden, self.qkv_bias
        yield Role.ATTENTION_OUTPUT, self.hidden, self.query_size, self.attention_output_bias
        yield Role.GATE, self.intermediate, self.hidden, self.feed_forward_bias
        yield Role.UP, self.intermediate, self.hidden, self.feed_forward_bias
        yield Role.DOWN, self.hidden, self.intermediate, self.feed_forward_bias
