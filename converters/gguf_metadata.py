"""The metadata of a GGUF file: general facts, hyperparameters, vocabulary.

Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, values those that
llama.cpp's own converter writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, RopeScaling
from converters.checkpoint import Checkpoint
from converters.gguf_vocabulary import Vocabulary
from converters.importance import CHUNK_TOKENS, Importance
from converters.schemes import Scheme
from converters.special_tokens import SpecialTokens
from edgekit.errors import InputError


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """How llama.cpp computes a family.

    `name` is the prefix of its keys. With `adjacent_pairs` it rotates neighbouring elements of
    a head where transformers rotates element i and i + head_dim / 2, so the rows of Q and K are
    stored in another order.
    """

    name: str
    adjacent_pairs: bool


ARCHITECTURES = {
    "llama": GgufArchitecture("llama", adjacent_pairs=True),
    "mistral": GgufArchitecture("llama", adjacent_pairs=True),
    "qwen2": GgufArchitecture("qwen2", adjacent_pairs=False),
    "qwen3": GgufArchitecture("qwen3", adjacent_pairs=False),
}
YARN_BETAS = (32.0, 1.0)


def check_supported(checkpoint: Checkpoint, shape: ModelShape) -> None:
    """Raise InputError if llama.cpp's graph of the family lacks something this model has."""
    name = ARCHITECTURES[shape.family].name
    if name == "qwen2" and shape.query_size != shape.hidden:
        what = f"{shape.query_size} query rows beside a width of {shape.hidden}"
    elif name == "qwen3" and shape.attention_output_bias:
        what = "a bias on the attention's output"
    elif name != "llama" and shape.rope_scaling and shape.rope_scaling.kind == "llama3":
        what = "rotary scaling of the kind llama3"
    elif (
        shape.rope_scaling
        and (shape.rope_scaling.beta_fast, shape.rope_scaling.beta_slow) != YARN_BETAS
    ):
        what = "yarn with other betas than 32 and 1"
    else:
        return
    raise InputError(f"{checkpoint.path}: llama.cpp's {name} cannot have {what}")


def add_general(writer: Any, checkpoint: Checkpoint, scheme: Scheme) -> None:
    """Add the `general.*` keys to a gguf.GGUFWriter."""
    from gguf import GGML_QUANT_VERSION, size_label

    writer.add_type("model")
    writer.add_name(checkpoint.path.resolve().name)
    writer.add_size_label(size_label(checkpoint.parameters, 0, 0, 0))
    if checkpoint.licence != "unknown":
        writer.add_license(checkpoint.licence)
    writer.add_file_type(scheme.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)


def add_calibration(writer: Any, importance: Importance) -> None:
    """Add the keys by which llama-quantize tells of an importance matrix."""
    writer.add_string("quantize.imatrix.file", "")
    writer.add_string("quantize.imatrix.dataset", importance.source)
    writer.add_uint32("quantize.imatrix.entries_count", len(importance.channels))
    writer.add_uint32("quantize.imatrix.chunks_count", -(-importance.tokens // CHUNK_TOKENS))


def add_hyperparameters(writer: Any, shape: ModelShape) -> None:
    """Add the keys of the architecture to a gguf.GGUFWriter."""
    from gguf import RopeScalingType

    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.usable_context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_vocab_size(shape.vocabulary_size)
    writer.add_layer_norm_rms_eps(shape.rms_norm_epsilon)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    scaling = shape.rope_scaling
    if scaling is None or scaling.kind == "llama3":  # llama3 is a tensor: see rope_factors
        return
    writer.add_rope_scaling_type(RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        _add_yarn(writer, scaling)


def _add_yarn(writer: Any, scaling: RopeScaling) -> None:
    writer.add_rope_scaling_orig_ctx_len(scaling.original_context_length)
    # ggml multiplies by the paper's factor; the key holds what differs from it
    paper = 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0
    writer.add_rope_scaling_attn_factors(scaling.attention_factor / paper)


def add_vocabulary(writer: Any, vocabulary: Vocabulary, special: SpecialTokens) -> None:
    """Add the `tokenizer.*` keys to a gguf.GGUFWriter, the chat template excepted."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if special.bos is not None:
        writer.add_bos_token_id(special.bos)
    writer.add_eos_token_id(special.eos)
    if special.pad is not None:
        writer.add_pad_token_id(special.pad)
    if special.unknown is not None:
        writer.add_unk_token_id(special.unknown)
    writer.add_add_bos_token(special.add_bos)
    writer.add_add_eos_token(special.add_eos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)


def rope_factors(shape: ModelShape) -> NDArray[np.float32] | None:
    """Return what llama3 scaling divides each frequency by: float32 [head_dim / 2], or None.

    Long waves are divided by the factor, short ones are kept, those between are blended; as in
    `_compute_llama3_parameters` of transformers' modeling_rope_utils.py.
    """
    scaling = shape.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
    wave_lengths = 2 * math.pi * np.float32(shape.rope_theta) ** exponents
    turns = scaling.original_context_length / wave_lengths
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - blend) / scaling.factor + blend)).astype(np.float32)
