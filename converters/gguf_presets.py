"""Which type llama-quantize gives each tensor under a scheme, and what a shape then forbids.

The rules are those of `llama_tensor_get_type_impl` and `tensor_type_fallback` in llama.cpp's
src/llama-quant.cpp (no experts), so that a file named q4_k_m is one.
"""

from __future__ import annotations

from converters.architectures import ModelShape, Role, TensorSpec
from converters.ggml import tensor_type
from converters.schemes import Scheme

FLOAT_TYPES = ("f32", "f16", "bf16")
# A type whose blocks do not fit a row gives way to one with blocks of 32, and that one to f16.
SMALLER_BLOCKS = {
    "iq4_xs": "iq4_nl",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}


def is_quantisable(spec: TensorSpec) -> bool:
    """Return whether the tensor may have another type than f32: matrices may."""
    return len(spec.shape) == 2


def preset_type(
    scheme: Scheme, spec: TensorSpec, shape: ModelShape, *, calibrated: bool = False
) -> str:
    """Return the type that `scheme` gives a matrix when its rows are long enough.

    `calibrated` says that an importance matrix is at hand: some rules then differ.
    """
    if scheme.tensor_type in FLOAT_TYPES:
        return scheme.tensor_type
    if spec.role is Role.OUTPUT or (spec.role is Role.EMBEDDING and shape.tied_embeddings):
        return "q8_0" if scheme.name == "q8_0" else "q6_k"
    if spec.role is Role.VALUE and spec.layer is not None:
        return _value_type(scheme, spec.layer, shape)
    if spec.role is Role.DOWN and spec.layer is not None:
        return _down_type(scheme, spec.layer, shape.layers, calibrated)
    if spec.role is Role.ATTENTION_OUTPUT and scheme.name == "q3_k_m":
        return "q4_k"
    return scheme.tensor_type


def legal_type(asked: str, columns: int) -> tuple[str, str]:
    """Return the type for rows of `columns` nearest to `asked`, and why it is not `asked` or ""."""
    block = tensor_type(asked).block_elements
    if columns % block == 0:
        return asked, ""
    used = SMALLER_BLOCKS.get(asked, asked)
    if columns % tensor_type(used).block_elements:
        used = "f16"
    return used, f"a row of {columns} is not a multiple of {block}"


def _value_type(scheme: Scheme, layer: int, shape: ModelShape) -> str:
    chosen = scheme.tensor_type
    match scheme.name:
        case "q4_k_m" | "q5_k_m" if _deserves_more_bits(layer, shape.layers):
            chosen = "q6_k"
        case "q4_k_s" if layer < 4:
            chosen = "q5_k"
        case "q3_k_m":
            chosen = "q5_k" if layer < 2 else "q4_k"
        case "iq4_nl" | "iq4_xs" if shape.heads // shape.kv_heads >= 4:
            chosen = "q5_k"
    if chosen in ("q3_k", "q4_k") and _is_70b(shape):
        return "q5_k"  # eight heads share it: more bits cost little
    return chosen


def _down_type(scheme: Scheme, layer: int, layers: int, calibrated: bool) -> str:
    first_eighth = layer < layers // 8
    match scheme.name:
        case "q4_k_m" | "q5_k_m" if _deserves_more_bits(layer, layers):
            return "q6_k"
        case "q4_k_s" if first_eighth:
            return "q5_k"
        case "iq4_nl" | "iq4_xs" if first_eighth and not calibrated:
            return "q5_k"
        case "q4_0" | "q5_0" if first_eighth and calibrated:
            return scheme.tensor_type[:-1] + "1"  # the importance of these layers can go astray
        case "q3_k_m":
            return "q5_k" if layer < layers // 16 else "q4_k"
    return scheme.tensor_type


def _deserves_more_bits(layer: int, layers: int) -> bool:
    """Return true for the first and last eighth of the layers and each third one between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _is_70b(shape: ModelShape) -> bool:
    if shape.layers != 80:
        return False
    return shape.family == "qwen2" or (shape.family != "qwen3" and shape.heads != shape.kv_heads)
