"""The names of schemes, and their numbers in GGUF files."""

from __future__ import annotations

import gguf
import pytest

from converters.ggml import TYPE_IDS
from converters.gguf_presets import legal_type
from converters.schemes import SCHEMES, check_tensor_type, scheme_named
from edgekit.errors import InputError


@pytest.mark.parametrize("scheme", SCHEMES["gguf"].values(), ids=lambda scheme: scheme.name)
def test_file_types_and_sizes_are_those_of_gguf_py(scheme) -> None:  # type: ignore[no-untyped-def]
    name = gguf.LlamaFileType(scheme.file_type).name.lower()
    assert name in (f"mostly_{scheme.name}", f"all_{scheme.name}")
    known = gguf.GGMLQuantizationType(TYPE_IDS[scheme.tensor_type])
    elements, size = gguf.GGML_QUANT_SIZES[known]
    assert scheme.bits == 8 * size / elements


@pytest.mark.parametrize(
    ("asked", "columns", "used"),
    [
        ("q4_k", 512, "q4_k"),
        ("q4_k", 576, "q5_0"),
        ("q5_k", 576, "q5_1"),
        ("q6_k", 576, "q8_0"),
        ("q3_k", 576, "q4_0"),
        ("iq4_xs", 576, "iq4_nl"),
        ("iq4_nl", 576, "iq4_nl"),
        ("q4_k", 72, "f16"),
        ("q4_0", 72, "f16"),
        ("f16", 7, "f16"),
    ],
)
def test_a_type_gives_way_to_the_row(asked: str, columns: int, used: str) -> None:
    name, why = legal_type(asked, columns)
    assert name == used
    assert bool(why) == (asked != used)


def test_the_reason_names_both_numbers() -> None:
    assert legal_type("q4_k", 576)[1] == "a row of 576 is not a multiple of 256"


def test_an_unknown_scheme_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="unknown scheme 'q4_km'") as caught:
        scheme_named("gguf", "q4_km")
    assert "did you mean q4_k_m?" in caught.value.hint


def test_a_scheme_belongs_to_its_format() -> None:
    with pytest.raises(InputError, match="unknown scheme 'q4_0'"):
        scheme_named("onnx", "q4_0")
    with pytest.raises(InputError, match="unknown tensor type 'int4'"):
        check_tensor_type("gguf", "int4")
