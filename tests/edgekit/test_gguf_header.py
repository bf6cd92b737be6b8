"""The GGUF header reader: against gguf-py and ggml on good files, and against malice."""

from __future__ import annotations

import ctypes
import random
import struct
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.gguf_header import (
    FIRST_READ_BYTES,
    MAX_BLOCKS,
    MAX_KEYS,
    MAX_TENSORS,
    read_header,
)
from edgekit.gguf_types import TENSOR_TYPES
from edgekit.gguf_values import MAX_ARRAY_ELEMENTS

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def array(kind: int, count: int, payload: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def tensor(
    name: str = "a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0
) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def document(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    counts = counts or (len(tensors), len(keys))
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    """Return a file as gguf-py writes it, with every kind of value and several tensor types."""
    path = tmp_path / "good.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_custom_alignment(64)
    for name, value in (
        ("int8", -5),
        ("uint16", 65535),
        ("int16", -3),
        ("uint64", 2**63),
        ("int64", -9),
    ):
        getattr(writer, f"add_{name}")(f"x.{name}", value)
    writer.add_float32("x.float32", 0.1)
    writer.add_float64("x.float64", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_array("x.bools", [True, False])
    writer.add_array("x.floats", [0.5, -1.25])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "é", "日本", "<|end|>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_eos_token_id(3)
    writer.add_chat_template("{{ messages }}" * 100)
    weights = np.linspace(-1, 1, 32 * 6, dtype=np.float32).reshape(6, 32)
    for kind in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"):
        kind_id = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind.lower(), gguf.quants.quantize(weights, kind_id), raw_dtype=kind_id)
    writer.add_tensor("flat", weights[0, :5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_gguf_py_reads(good_file: Path) -> None:
    header, reader = read_header(good_file), gguf.GGUFReader(good_file)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert header.metadata == fields
    assert (header.version, header.alignment, header.data_offset) == (3, 64, reader.data_offset)
    assert [
        (t.name, t.shape, t.type_id, t.type_name, t.offset, t.bytes) for t in header.tensors
    ] == [
        (
            t.name,
            tuple(map(int, t.shape)),
            t.tensor_type,
            t.tensor_type.name,
            t.data_offset,
            t.n_bytes,
        )
        for t in reader.tensors
    ]


def test_getters_insist_on_the_type(good_file: Path) -> None:
    header = read_header(good_file)
    assert header.get("x.int8", int) == -5
    assert header.get("absent", int, 7) == 7
    assert header.get_list("x.floats", float) == [0.5, -1.25]
    for call in (
        lambda: header.get("absent", int),
        lambda: header.get("x.bool", int),
        lambda: header.get("x.bools", bool),
        lambda: header.get_list("x.floats", int),
        lambda: header.get_list("x.int8", int),
        lambda: header.get_list("absent", int),
    ):
        with pytest.raises(InputError):
            call()


def test_type_sizes_are_those_of_ggml() -> None:
    """The library that llama-cpp-python ships is the one that will open what passes."""
    spec = find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    libraries = (Path(spec.origin).parent / "lib").glob("*ggml-base.*")
    ggml = ctypes.CDLL(str(min(libraries)))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    for type_id in range(43):
        sizes = ggml.ggml_blck_size(type_id), ggml.ggml_type_size(type_id)
        if known := TENSOR_TYPES.get(type_id):
            assert (known.block_elements, known.block_bytes) == sizes
            assert known.name.lower() == ggml.ggml_type_name(type_id).decode().lower()
        else:
            assert sizes == (0, 0), f"ggml knows type {type_id}"


def test_a_header_beyond_the_first_read_is_read_in_full(
    written: Callable[[bytes], Path],
) -> None:
    long_text = "x" * (FIRST_READ_BYTES + 1000)
    keys = (key("a", STRING, text(long_text)), key("b", U32, struct.pack("<I", 5)))
    assert read_header(written(document(keys))).metadata == {"a": long_text, "b": 5}


F = 128 * b"\0"
DEEP = array(ARRAY, 1, array(U8, 1, b"\1"))
VOCABULARY = key("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, text("a") + text("b")))
HOSTILE = {
    "an empty file": (b"", "begins with b''"),
    "not a gguf": (document(magic=b"GGML"), "begins with b'GGML'"),
    "only the magic": (b"GGUF", "ends at byte 8, the file has 4"),
    "version 1": (document(version=1), "version 1"),
    "version 4": (document(version=4), "version 4"),
    "big-endian": (document(version=3 << 24), "big-endian"),
    "too many tensors": (document(counts=(MAX_TENSORS + 1, 0)), "65537 tensors, the most"),
    "too many keys": (document(counts=(0, MAX_KEYS + 1)), "65537 metadata keys, the most"),
    "more tensors than bytes": (document(counts=(60_000, 0)), "60000 tensors, and"),
    "more keys than bytes": (document(counts=(0, 60_000)), "60000 metadata keys, and"),
    "an endless key": (document((struct.pack("<Q", 2**60),), counts=(0, 1), data=F), "65535"),
    "an endless string": (
        document((key("a", STRING, struct.pack("<Q", 2**63)),), data=F),
        "claims 9223372036854775808 bytes",
    ),
    "a string past the end": (
        document((key("a", STRING, struct.pack("<Q", 999)),)),
        "the file has",
    ),
    "a key twice": (
        document((key("a", U8, b"\1"), key("a", U8, b"\1"))),
        "'a' is empty or appears twice",
    ),
    "an empty key": (document((key("", U8, b"\1"),)), "'' is empty"),
    "a key that is not UTF-8": (
        document((text(b"\xff\xfe") + struct.pack("<I", U8) + b"\1",), counts=(0, 1)),
        "not UTF-8 at byte 0 of 2",
    ),
    "a string that is not UTF-8": (
        document((key("a", STRING, text(b"ab\xc3")),)),
        "at byte 2 of 3",
    ),
    "a token that is not UTF-8": (
        document((key("a", ARRAY, array(STRING, 2, text("x") + text(b"\xff"))),)),
        "is not UTF-8",
    ),
    "an unknown value type": (document((key("a", 13, b"\1" * 16),)), "type 13, known are 0 to 12"),
    "an unknown element type": (document((key("a", ARRAY, array(99, 1, F)),)), "type 99"),
    "an array of arrays": (document((key("a", ARRAY, DEEP),)), "array of arrays"),
    "an endless array": (
        document((key("a", ARRAY, array(U8, 2**62, b"")),), data=F),
        f"most allowed are {MAX_ARRAY_ELEMENTS}",
    ),
    "an array past the end": (document((key("a", ARRAY, array(U32, 15, b"")),)), "ends at byte"),
    "an array of strings past the end": (
        document(
            (key("a", ARRAY, array(STRING, 2, text("x") + struct.pack("<Q", 99))),), data=F[:16]
        ),
        "element 2 of the value of 'a' ends at",
    ),
    "a boolean of 2": (document((key("a", BOOL, b"\2"),)), "holds 2 where a boolean"),
    "an alignment of 0": (document((key("general.alignment", U32, struct.pack("<I", 0)),)), "is 0"),
    "an alignment of 24": (
        document((key("general.alignment", U32, struct.pack("<I", 24)),)),
        "is 24",
    ),
    "a huge alignment": (
        document((key("general.alignment", U32, struct.pack("<I", 1 << 20)),)),
        "is 1048576, not a power of two up to 65536",
    ),
    "a text as alignment": (document((key("general.alignment", STRING, text("32")),)), "is '32'"),
    "a long tensor name": (
        document((), (tensor("n" * 64),), F),
        "claims 64 bytes, the most allowed are 63",
    ),
    "a tensor twice": (document((), (tensor(), tensor(offset=128)), F + F), "'a' appears twice"),
    "no dimensions": (document((), (tensor(shape=()),), F), "0 dimensions"),
    "five dimensions": (document((), (tensor(shape=(1,) * 5),), F), "5 dimensions, not 1 to 4"),
    "a dimension of 0": (document((), (tensor(shape=(32, 0)),), F), "impossible shape [32, 0]"),
    "a shape that overflows": (
        document((), (tensor(shape=(2**32, 2**31)),), F),
        "impossible shape",
    ),
    "a removed type": (document((), (tensor(kind=4),), F), "type 4, which is not known"),
    "a type from the future": (document((), (tensor(kind=99),), F), "type 99"),
    "half a block": (
        document((), (tensor(shape=(48,), kind=8),), F),
        "rows of 48, not a multiple of Q8_0's block of 32",
    ),
    "a tensor past the end": (document((), (tensor(shape=(33,)),), F), "ends at byte"),
    "a tensor far past the end": (document((), (tensor(shape=(2**62,)),), F), "ends at byte"),
    "an offset past the end": (
        document((), (tensor(offset=2**63),), F),
        "offset 9223372036854775808",
    ),
    "an unaligned offset": (
        document((), (tensor(offset=8),), F + F),
        "offset 8, the tensors before it end at 0",
    ),
    "tensors that overlap": (
        document((), (tensor(), tensor("b", offset=64)), F + F),
        "offset 64, the tensors before it end at 128",
    ),
    "tensors with a hole": (document((), (tensor(), tensor("b", offset=160)), F * 3), "offset 160"),
    "tensor data cut short": (document((), (tensor(),), F[:-1]), "the file has"),
    "no blocks": (
        document(
            (key("general.architecture", STRING, text("x")), key("x.block_count", U32, b"\0" * 4))
        ),
        f"x.block_count is 0, not 1 to {MAX_BLOCKS}",
    ),
    "a million blocks": (
        document(
            (
                key("general.architecture", STRING, text("x")),
                key("x.block_count", U32, struct.pack("<I", 10**6)),
            )
        ),
        "x.block_count is 1000000",
    ),
    "an architecture that is a number": (
        document((key("general.architecture", U8, b"\1"),)),
        "should be str",
    ),
    "tokens that are numbers": (
        document((key("tokenizer.ggml.tokens", ARRAY, array(U8, 2, b"ab")),)),
        "a list of str",
    ),
    "too few token types": (
        document((VOCABULARY, key("tokenizer.ggml.token_type", ARRAY, array(I32, 1, b"\1\0\0\0")))),
        "1 entries for 2 tokens",
    ),
    "too few scores": (
        document((VOCABULARY, key("tokenizer.ggml.scores", ARRAY, array(F32, 1, b"\0" * 4)))),
        "1 entries for 2 tokens",
    ),
    "a token twice": (
        document((key("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, text("a") * 2)),)),
        "token 'a' has the ids 0 and 1",
    ),
    "an end of text outside": (
        document((VOCABULARY, key("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 2)))),
        "eos_token_id is 2, the vocabulary has 2 tokens",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(name: str, written: Callable[[bytes], Path]) -> None:
    data, part = HOSTILE[name]
    path = written(data)
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    assert part in caught.value.message


def test_accepts_the_parts_that_the_hostile_files_are_made_of(
    written: Callable[[bytes], Path],
) -> None:
    keys = (
        key("general.architecture", STRING, text("x")),
        key("x.block_count", U32, struct.pack("<I", MAX_BLOCKS)),
        VOCABULARY,
        key("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 1)),
    )
    header = read_header(written(document(keys, (tensor(), tensor("b", offset=128)), F + F)))
    assert [t.offset - header.data_offset for t in header.tensors] == [0, 128]
    assert header.architecture == "x"
    assert read_header(written(document(version=2))).version == 2


def test_says_that_a_file_is_absent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(InputError, match="Is a directory"):
        read_header(tmp_path)


def survives(path: Path) -> bool:
    """Read `path`; return whether it was accepted. Anything but InputError fails the test."""
    try:
        read_header(path)
    except InputError:
        return False
    return True


def test_every_truncation_is_refused(good_file: Path) -> None:
    data = good_file.read_bytes()
    last = max(t.offset + t.bytes for t in read_header(good_file).tensors)
    for length in (*range(400), *range(400, last, 13), last - 1):
        good_file.write_bytes(data[:length])
        assert not survives(good_file), length


def test_flipped_bits_never_crash_it(good_file: Path) -> None:
    data, random_source = good_file.read_bytes(), random.Random(7)
    accepted = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(random_source.randint(1, 4)):
            damaged[random_source.randrange(2200)] ^= 1 << random_source.randrange(8)
        good_file.write_bytes(damaged)
        accepted += survives(good_file)
    assert 0 < accepted < 1500  # a flip inside a text is harmless, one in a count is not


def test_a_lie_costs_no_memory(written: Callable[[bytes], Path]) -> None:
    path = written(document((key("a", ARRAY, array(STRING, MAX_ARRAY_ELEMENTS, F)),)))
    tracemalloc.start()
    with pytest.raises(InputError):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
