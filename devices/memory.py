"""How much memory a model takes in each engine, piece by piece.

The pieces were measured with tiny models, with SmolLM2-135M and with random models of 140M and
494M weights in every scheme, by the resident pages of the worker process (/proc/PID/smaps): each
constant says of what. It knows no engine's code, only what was seen of it, and no speed.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from devices.model_facts import ModelFacts

MIB = 1 << 20
BLOCK = 32  # weights that share a scale in edgekit's ONNX files

# A worker's interpreter, numpy and the engine: what a model of no size takes. It is the middle: of
# the libraries' pages, 7 (GGUF) to 10 MB (ONNX) more are resident where their files were just
# written than where they were read again, because the system then maps larger pieces at once.
GGUF_RUNTIME_BYTES = int(52.3 * MIB)
ONNX_RUNTIME_BYTES = int(72.1 * MIB)

# llama.cpp keeps each token's text, score and merges in maps: so many bytes for each byte of them
# in the file's header.
GGUF_VOCABULARY_FACTOR = 8.4
GGUF_CELLS = 256  # llama.cpp rounds a context up to a multiple of this
GGUF_BATCH_TOKENS = 256  # runtimes.gguf_engine.BATCH_TOKENS
GGUF_BUFFER_BYTES = int(2.2 * MIB)
# Floats of scratch memory that a token of a batch takes, per column and per inner column; bytes
# that the attention mask takes per token of a batch and position.
GGUF_HIDDEN_FLOATS, GGUF_INNER_FLOATS, GGUF_MASK_BYTES = 1.58, 3.45, 2.6

# The tokenizers library, per byte of tokenizer.json (SmolLM2: 17.5 MiB for 3.36).
ONNX_VOCABULARY_FACTOR = 5.2
# Beside its codes a block has its scale in float16 and in float32 and a sum that the kernel adds;
# the output's table has all that once more, for looking up rows.
ONNX_BYTES_PER_BLOCK = {"int4": 10.0, "int4_asymmetric": 10.5, "int8": 10.0}
ONNX_CODE_BYTES = {
    "int4": 0.5, "int4_asymmetric": 0.5, "int8": 1.0,
    "f16": 5.8, "f32": 4.0,  # f16 is widened, and kept
}  # fmt: skip
ONNX_BUFFER_BYTES = int(5.6 * MIB)
# Pages of the embedding that a prompt touches: tokens repeat, and the system maps 32 kB at once, of
# a file that was just written 64 kB or more.
DISTINCT_TOKENS_FACTOR, READ_AROUND_BYTES = 13.0, 48 << 10

# torch, transformers, bitsandbytes and Python, on a processor. What is no code of bitsandbytes'
# is float32 there; the file's pages stay mapped while the weights are copied out of it, and the
# largest tensor, the embedding, is held once more before it is widened.
TORCH_RUNTIME_BYTES = 395 * MIB
TORCH_BUFFER_BYTES = 20 * MIB
TORCH_CODES = ("int8", "nf4")

# Types that llama.cpp copies into another order when the processor has the feature (its
# ggml_repack_get_optimal_repack_type): the copy comes on top of the mapped file.
REPACKED: dict[str, frozenset[str]] = {
    "avx2": frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4"}),
    "avx512f": frozenset({"q2_k"}),
    "asimddp": frozenset({"q4_0", "q4_k", "q5_k", "q6_k", "iq4_nl", "q8_0", "mxfp4"}),
    "i8mm": frozenset({"q4_0", "q4_k", "q5_k", "q6_k", "q8_0"}),
}
APPLE_FEATURES = ("asimddp",)  # every Apple M has it, and macOS has no /proc/cpuinfo


def pieces(
    model: ModelFacts, features: Collection[str], context_length: int, prompt_tokens: int
) -> dict[str, int]:
    """Return the bytes of each piece at the moment when most is resident.

    `context_length` is the context that the engine is loaded with and that is then filled;
    `prompt_tokens` is the longest prompt. The sum is what `edgekit bench` calls peak memory.
    """
    match model.format:
        case "gguf":
            return _gguf(model, features, context_length, prompt_tokens)
        case "onnx":
            return _onnx(model, context_length, prompt_tokens)
        case "torch":
            return _torch(model, context_length)


def reclaimable_bytes(model: ModelFacts, found: dict[str, int]) -> int:
    """Return how much of `found` the system can take back without slowing an answer.

    The part of a mapped GGUF file that was copied into another order is never read again.
    """
    return min(found.get("repacked weights", 0), found["weights"])


def repacked_bytes(model: ModelFacts, features: Collection[str]) -> int:
    """Return the bytes of weights that llama.cpp copies on a processor with `features`."""
    types = frozenset[str]().union(*(REPACKED.get(feature, frozenset()) for feature in features))
    copied = sum(size for kind, size in model.block_bytes.items() if kind in types)
    return copied + (model.output_bytes if model.output_type in types else 0)


def _gguf(
    model: ModelFacts, features: Collection[str], context_length: int, prompt_tokens: int
) -> dict[str, int]:
    cells = -(-context_length // GGUF_CELLS) * GGUF_CELLS
    batch = min(GGUF_BATCH_TOKENS, max(1, prompt_tokens))
    floats = GGUF_HIDDEN_FLOATS * model.hidden_size + GGUF_INNER_FLOATS * model.intermediate_size
    scratch = batch * (4 * floats + GGUF_MASK_BYTES * cells)
    header = max(0, model.file_bytes - model.weight_bytes)
    return {
        "weights": model.weight_bytes,
        "repacked weights": repacked_bytes(model, features),
        "KV cache": cells * model.kv_bytes_per_token,
        "activations": int(scratch) + GGUF_BUFFER_BYTES + 4 * model.vocabulary_size,
        "vocabulary": int(GGUF_VOCABULARY_FACTOR * header),
        "engine and Python": GGUF_RUNTIME_BYTES,
    }


def _onnx(model: ModelFacts, context_length: int, prompt_tokens: int) -> dict[str, int]:
    """Return the pieces of an ONNX model: the larger of loading and of answering."""
    weights, largest = _onnx_weights(model)
    answering = {
        "KV cache": context_length * model.kv_bytes_per_token,
        "activations": ONNX_BUFFER_BYTES + 4 * model.vocabulary_size,
        "embedding rows": _touched_bytes(model.embedding_bytes, prompt_tokens),
    }
    # A second copy of the largest matrix while ONNX Runtime packs it: gone before the first token.
    loading = {"packing while loading": largest}
    later = answering if sum(answering.values()) >= largest else loading
    return {
        "weights": weights,
        **later,
        "vocabulary": int(ONNX_VOCABULARY_FACTOR * model.tokenizer_bytes),
        "engine and Python": ONNX_RUNTIME_BYTES,
    }


def _torch(model: ModelFacts, context_length: int) -> dict[str, int]:
    """Return the pieces of a torch model on a processor: the larger of loading and answering."""
    blocks = sum(
        model.block_bytes[kind] if kind in TORCH_CODES else 4 * count
        for kind, count in model.block_weights.items()
    )
    answering = {
        "KV cache": context_length * model.kv_bytes_per_token,
        "activations": TORCH_BUFFER_BYTES + 4 * model.vocabulary_size,
    }
    loading = {"file while loading": model.file_bytes + model.embedding_bytes}
    return {
        "weights": blocks + 4 * model.output_weights * (1 if model.tied else 2),
        **max(answering, loading, key=lambda pieces: sum(pieces.values())),
        "vocabulary": int(ONNX_VOCABULARY_FACTOR * model.tokenizer_bytes),
        "engine and Python": TORCH_RUNTIME_BYTES,
    }


def _onnx_weights(model: ModelFacts) -> tuple[int, int]:
    """Return the bytes of ONNX Runtime's packed copy, and of the output matrix in it."""
    blocks = sum(
        ONNX_CODE_BYTES.get(kind, 4.0) * count + _scales(kind, count)
        for kind, count in model.block_weights.items()
    )
    output = ONNX_CODE_BYTES.get(model.output_type, 4.0) * model.output_weights
    scales = 2 * _scales(model.output_type, model.output_weights)
    width = 4.0 if model.output_type == "f16" else ONNX_CODE_BYTES.get(model.output_type, 4.0)
    return int(blocks + output + scales), int(width * model.output_weights)


def _scales(kind: str, weights: int) -> float:
    return ONNX_BYTES_PER_BLOCK.get(kind, 0.0) * weights / BLOCK


def _touched_bytes(table_bytes: int, prompt_tokens: int) -> int:
    """Return the bytes of the embedding's pages that a prompt of ordinary text brings in."""
    if not table_bytes:
        return 0
    rows = DISTINCT_TOKENS_FACTOR * math.sqrt(prompt_tokens)
    return int(table_bytes * (1 - math.exp(-rows * READ_AROUND_BYTES / table_bytes)))
