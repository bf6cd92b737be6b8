"""Schemes: the names of the ways to store weights, for each format. It knows no tensor.

A GGUF scheme gives most weights one type and raises a few by the rules of `gguf_presets`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from edgekit.artifact import Format
from edgekit.errors import InputError
from edgekit.gguf_types import TENSOR_TYPES


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store weights.

    `tensor_type` is the type of most weights and `bits` its bits per weight, scales included.
    `file_type` is GGUF's number for the scheme (enum llama_ftype of llama.h), else 0.
    """

    name: str
    format: Format
    tensor_type: str
    bits: float
    file_type: int = 0


def _gguf(name: str, tensor_type: str, file_type: int) -> Scheme:
    facts = next(facts for facts in TENSOR_TYPES.values() if facts.name.lower() == tensor_type)
    bits = 8 * facts.block_bytes / facts.block_elements
    return Scheme(name, "gguf", tensor_type, bits, file_type)


SCHEMES: dict[Format, dict[str, Scheme]] = {
    "gguf": {
        scheme.name: scheme
        for scheme in (
            _gguf("f32", "f32", 0),
            _gguf("f16", "f16", 1),
            _gguf("bf16", "bf16", 32),
            _gguf("q8_0", "q8_0", 7),
            _gguf("q6_k", "q6_k", 18),
            _gguf("q5_k_m", "q5_k", 17),
            _gguf("q5_k_s", "q5_k", 16),
            _gguf("q5_1", "q5_1", 9),
            _gguf("q5_0", "q5_0", 8),
            _gguf("q4_k_m", "q4_k", 15),
            _gguf("q4_k_s", "q4_k", 14),
            _gguf("q4_1", "q4_1", 3),
            _gguf("q4_0", "q4_0", 2),
            _gguf("iq4_nl", "iq4_nl", 25),
            _gguf("iq4_xs", "iq4_xs", 30),
            _gguf("q3_k_m", "q3_k", 12),
        )
    },
    # 32 weights share a float16 scale, and a zero point of 4 bits where they are asymmetric.
    "onnx": {
        "f32": Scheme("f32", "onnx", "f32", 32.0),
        "f16": Scheme("f16", "onnx", "f16", 16.0),
        "int8": Scheme("int8", "onnx", "int8", 8.5),
        "int4": Scheme("int4", "onnx", "int4", 4.5),
        "int4_asymmetric": Scheme("int4_asymmetric", "onnx", "int4_asymmetric", 4.625),
    },
    # int8: a float32 scale for each row; nf4: one for each 64 weights (bitsandbytes_layout).
    "torch": {
        "f32": Scheme("f32", "torch", "f32", 32.0),
        "bf16": Scheme("bf16", "torch", "bf16", 16.0),
        "int8": Scheme("int8", "torch", "int8", 8.0),
        "nf4": Scheme("nf4", "torch", "nf4", 4.5),
    },
}


def scheme_named(known_format: Format, name: str, where: str = "") -> Scheme:
    """Return the scheme `name` of a format. Raises InputError naming `where` and the nearest."""
    known = SCHEMES[known_format]
    if name not in known:
        raise unknown("scheme", name, known, where)
    return known[name]


def check_tensor_type(known_format: Format, name: str, where: str = "") -> str:
    """Return the tensor type `name` if the format can hold it. Raises InputError as above."""
    known = {scheme.tensor_type: scheme for scheme in SCHEMES[known_format].values()}
    if name not in known:
        raise unknown("tensor type", name, known, where)
    return name


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """Return an error for a name that is not in `known`, with the nearest that is."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return InputError(
        f"{where + ': ' if where else ''}unknown {what} {name!r:.60}",
        hint=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(names)}",
    )
