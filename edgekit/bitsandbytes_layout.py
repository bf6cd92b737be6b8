"""What bitsandbytes stores for one matrix, and how a configuration says so: two known forms.

`int8` is LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339): a code of 8 bits for each weight and
one scale for each row. `nf4` is QLoRA's 4-bit NormalFloat (Dettmers et al. 2023, arXiv
2305.14314): codes of 4 bits and one scale for each 64 weights in a row of all. bitsandbytes
follows what a file says of these sizes without a look, in C, so whoever reads one compares it
with what is computed here. It computes no weight.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

Kind = Literal["int8", "nf4"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FloatName = Literal["float32", "bfloat16", "float16"]
FloatType = Literal["F32", "BF16", "F16"]
FLOAT_NAMES: dict[FloatName, FloatType] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
Part = tuple[str, tuple[int, ...]]
"""A safetensors dtype and a shape."""

NF4_BLOCK = 64
# The quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (appendix E).
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# Inputs above this are multiplied in half precision, column by column (section 3.2).
INT8_OUTLIER_THRESHOLD = 6.0


def parts(name: str, rows: int, columns: int, kind: Kind, float_name: FloatName) -> dict[str, Part]:
    """Return the tensors that hold the matrix `name` (`....weight`), the matrix's own first."""
    stem = name.removesuffix("weight")
    match kind:
        case "int8":
            return {
                name: ("I8", (rows, columns)),
                f"{stem}SCB": ("F32", (rows,)),
                f"{stem}weight_format": ("U8", ()),
            }
        case "nf4":
            weights = rows * columns
            state = nf4_state(rows, columns, float_name)
            return {
                name: ("U8", ((weights + 1) // 2, 1)),
                f"{name}.absmax": ("F32", (-(-weights // NF4_BLOCK),)),
                f"{name}.quant_map": ("F32", (len(NF4_LEVELS),)),
                f"{name}.quant_state.bitsandbytes__nf4": ("U8", (len(state),)),
            }


def nf4_state(rows: int, columns: int, float_name: FloatName) -> bytes:
    """Return the JSON that stands beside an `nf4` matrix, as bitsandbytes spells it."""
    shape = [rows, columns]
    facts = {"quant_type": "nf4", "blocksize": NF4_BLOCK, "dtype": float_name, "shape": shape}
    return json.dumps(facts).encode()


def quantisation_config(
    kind: Kind, float_name: FloatName, kept_modules: Sequence[str]
) -> dict[str, Any]:
    """Return the `quantization_config` of `config.json`; `kept_modules` stay in float."""
    common = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": list(kept_modules)}
    match kind:
        case "int8":
            return common | {
                "load_in_8bit": True,
                "load_in_4bit": False,
                "llm_int8_threshold": INT8_OUTLIER_THRESHOLD,
                "llm_int8_has_fp16_weight": False,
                "llm_int8_enable_fp32_cpu_offload": False,
            }
        case "nf4":
            return common | {
                "load_in_8bit": False,
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": False,
                "bnb_4bit_compute_dtype": float_name,
                "bnb_4bit_quant_storage": "uint8",
            }
