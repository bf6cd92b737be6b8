"""Writes a tiny checkpoint as GGUF with gguf-py, to have files that edgekit did not write.

Quantising and dequantising are done by ggml's C code, through the library that llama-cpp-python
ships: independent of gguf-py's numpy code that the importer uses.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Float32Array = NDArray[np.float32]
TypeOf = Callable[[str], str]

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

# Types that are slow to quantise, and the byte of a block that holds the scale's exponent.
SCALE_BYTE = {"IQ2_XXS": 1, "IQ2_XS": 1, "IQ2_S": 1, "IQ1_S": 1, "IQ1_M": -1}


def gguf_name(name: str) -> str:
    """Return the GGUF name of a checkpoint's tensor."""
    body, _, part = name.rpartition(".")
    if body.startswith("model.layers."):
        _, _, layer, middle = body.split(".", 3)
        return f"blk.{layer}.{NAMES[middle]}.{part}"
    return f"{NAMES[body]}.{part}"


def row_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Return which row of Q or K goes where in a Llama's GGUF, as llama.cpp's converter says."""
    order = np.arange(rows).reshape(heads, 2, rows // heads // 2)
    return order.swapaxes(1, 2).reshape(rows)


@cache
def ggml() -> ctypes.CDLL:
    """Return ggml's library."""
    spec = find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    library = ctypes.CDLL(str(min((Path(spec.origin).parent / "lib").glob("*ggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def quantise(values: Float32Array, type_name: str) -> NDArray[np.uint8]:
    """Return the rows of `values` as stored bytes; random ones where a search takes minutes."""
    kind = gguf.GGMLQuantizationType[type_name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    if type_name in SCALE_BYTE:
        data = np.random.default_rng(5).integers(0, 256, (rows, columns // block, size), np.uint8)
        data[:, :, SCALE_BYTE[type_name]] &= 0xBF  # a small exponent: not infinite
        return data.reshape(rows, -1)
    values = np.ascontiguousarray(values)
    importance = np.ones(columns, dtype=np.float32)
    out = np.empty((rows, columns // block * size), dtype=np.uint8)
    written = ggml().ggml_quantize_chunk(
        kind, values.ctypes.data, out.ctypes.data, 0, rows, columns, importance.ctypes.data
    )
    assert written == out.nbytes
    return out


def dequantise(data: NDArray[np.uint8], type_name: str, columns: int) -> Float32Array:
    """Return stored rows as float32, by ggml's C code."""
    out = np.empty((data.shape[0], columns), dtype=np.float32)
    scalar = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}
    lower = type_name.lower().replace("_k", "_K")
    function = getattr(ggml(), scalar.get(type_name, f"dequantize_row_{lower}"))
    function(
        ctypes.c_void_p(data.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_int64(out.size),
    )
    return out


def write_gguf(
    checkpoint: Path,
    path: Path,
    type_of: TypeOf = lambda name: "F32",
    *,
    pre: str = "smollm",
    change: Callable[[Any], None] = lambda writer: None,
    leave_out: Iterable[str] = (),
) -> dict[str, Float32Array]:
    """Write the checkpoint as GGUF; return its tensors as they are after quantising.

    `type_of` gives the type of a matrix by its GGUF name. `change` may add to the
    gguf.GGUFWriter before it is written; tensors in `leave_out` (GGUF names) are not written.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture)
    _add_hyperparameters(writer, config)
    add_vocabulary(writer, checkpoint, pre)
    stored = {}
    for name, values in load_file(checkpoint / "model.safetensors").items():
        if gguf_name(name) in leave_out:
            continue
        values = values.astype(np.float32)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        head_key = next((key for part, key in heads.items() if part in name), None)
        order = np.arange(len(values))
        if architecture == "llama" and head_key:
            order = row_order(len(values), config[head_key])
        kept = _add_tensor(writer, gguf_name(name), values[order], type_of)
        stored[name] = np.empty_like(kept)
        stored[name][order] = kept
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _add_tensor(writer: Any, name: str, values: Float32Array, type_of: TypeOf) -> Float32Array:
    """Add one tensor; return its values after quantising."""
    type_name = type_of(name) if values.ndim == 2 else "F32"
    if type_name == "F32":
        writer.add_tensor(name, np.ascontiguousarray(values))
        return values
    data = quantise(values, type_name)
    writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[type_name])
    return dequantise(data, type_name, values.shape[1])


def _add_hyperparameters(writer: Any, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if head_dim := config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)


def add_vocabulary(writer: Any, checkpoint: Path, pre: str) -> None:
    """Add the tokenizer of the checkpoint under the pre-tokenizer name `pre`."""
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    control = {t["content"] for t in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(ids[settings["bos_token"]])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_pad_token_id(ids[settings["pad_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(settings["chat_template"])
