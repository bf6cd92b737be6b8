"""GGUF header: the metadata and tensor list of a GGUF file, read as hostile input.

Every count, length and offset is checked before it is used, so that a native loader may open
what passes. It reads no tensor data and knows nothing of what the metadata means, but for the
vocabulary and the number of blocks, where a lie makes native loaders read out of bounds.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TypeVar

from edgekit.errors import InputError
from edgekit.gguf_types import TENSOR_TYPES, TensorType
from edgekit.gguf_values import (
    MAX_HEADER_BYTES,
    BeyondBufferError,
    Value,
    ValueReader,
    broken,
)

T = TypeVar("T", str, int, float, bool)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 65_536
MAX_KEYS = 65_536
MAX_KEY_BYTES = 65_535  # the limit of the specification
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME, with its final zero, is 64
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 64 << 10
MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS: llama.cpp aborts above it
DEFAULT_ALIGNMENT = 32
FIRST_READ_BYTES = 8 << 20  # holds the header of nearly every model


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. `shape` is in file order: the length of a row comes first.

    `offset` is from the start of the file, `bytes` is the exact size of the data.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        """Return the number of weights."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The checked header of a GGUF file."""

    path: Path
    version: int
    alignment: int
    metadata: dict[str, Value] = field(repr=False)
    tensors: list[GgufTensor] = field(repr=False)
    data_offset: int

    @property
    def architecture(self) -> str:
        """Return `general.architecture`. Raises InputError."""
        return self.get("general.architecture", str)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Return a metadata value of exactly the type `kind`.

        Raises InputError if the key has another type, or is absent and there is no default.
        """
        value = self.metadata.get(key, default)
        if value is None:
            raise InputError(f"{self.path}: the key {key} is missing")
        if type(value) is not kind:
            raise self._wrong_type(key, kind.__name__, value)
        return value

    def get_list(self, key: str, kind: type[T], default: list[T] | None = None) -> list[T]:
        """Return a metadata array whose elements are of the type `kind`. Raises as `get`."""
        value = self.metadata.get(key, default)
        if value is None:
            raise InputError(f"{self.path}: the key {key} is missing")
        # the elements of an array share one type, so the first speaks for all
        if not isinstance(value, list) or (value and type(value[0]) is not kind):
            raise self._wrong_type(key, f"a list of {kind.__name__}", value)
        return value  # type: ignore[return-value]

    def _wrong_type(self, key: str, wanted: str, value: Value) -> InputError:
        found = f"a list of {len(value)}" if isinstance(value, list) else repr(value)[:80]
        return InputError(f"{self.path}: the key {key} should be {wanted}, it is {found}")


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of the GGUF file `path`; no tensor data is read.

    Memory is bounded by MAX_HEADER_BYTES and MAX_ARRAY_ELEMENTS whatever the file claims.

    Raises InputError for anything that is not a whole, well-formed little-endian GGUF file of
    version 2 or 3 whose tensors lie inside it one after another.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            for limit in (FIRST_READ_BYTES, MAX_HEADER_BYTES):
                stream.seek(0)
                data = _read_up_to(stream.fileno(), min(size, limit))
                try:
                    return _Parser(path, data, size).header()
                except BeyondBufferError:
                    continue
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    raise broken(path, f"its header goes on beyond {MAX_HEADER_BYTES} bytes")


def _read_up_to(handle: int, count: int) -> bytes:
    pieces = []
    while count > 0 and (piece := os.read(handle, count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


class _Parser(ValueReader):
    """Takes the parts of a header, in the order of the file."""

    def header(self) -> GgufHeader:
        version = self.version()
        tensor_count = self.count("tensors", MAX_TENSORS, 32)
        key_count = self.count("metadata keys", MAX_KEYS, 13)
        metadata = dict(self.metadata(key_count))
        alignment = self.alignment(metadata)
        infos = list(self.tensor_infos(tensor_count))
        data_offset = -(-self.position // alignment) * alignment
        tensors = self.placed(infos, data_offset, alignment)
        header = GgufHeader(self.path, version, alignment, metadata, tensors, data_offset)
        _check_blocks(header)
        _check_vocabulary(header)
        return header

    def version(self) -> int:
        magic = self.data[: len(MAGIC)]
        if magic != MAGIC:
            raise self.broken(f"it begins with {magic!r}, not {MAGIC!r}")
        self.position = len(MAGIC)
        version = self.u32("the version")
        if version & 0xFFFF == 0 and version:
            raise self.broken(f"it is big-endian (version {version:#x}), only little-endian works")
        if version not in VERSIONS:
            raise self.broken(f"it has version {version}, edgekit reads 2 and 3")
        return version

    def metadata(self, count: int) -> Iterator[tuple[str, Value]]:
        seen = set()
        for index in range(count):
            key = self.string(f"metadata key {index + 1} of {count}", MAX_KEY_BYTES)
            if not key or key in seen:
                raise self.broken(f"the metadata key {key!r:.80} is empty or appears twice")
            seen.add(key)
            yield key, self.value(f"the value of {key!r:.80}")

    def alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(value) is not int or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            raise self.broken(
                f"general.alignment is {value!r:.80}, not a power of two up to {MAX_ALIGNMENT}"
            )
        return value

    def tensor_infos(self, count: int) -> Iterator[GgufTensor]:
        """Yield the tensors with offsets as stored: from the start of the data."""
        seen = set()
        for index in range(count):
            name = self.string(f"tensor name {index + 1} of {count}", MAX_TENSOR_NAME_BYTES)
            if name in seen:
                raise self.broken(f"the tensor {name!r} appears twice")
            seen.add(name)
            shape = self.shape(name)
            type_id = self.u32(f"the type of tensor {name!r}")
            kind = TENSOR_TYPES.get(type_id)
            if kind is None:
                raise self.broken(f"tensor {name!r} has type {type_id}, which is not known")
            size = self.data_bytes(name, shape, kind)
            offset = self.u64(f"the offset of tensor {name!r}")
            yield GgufTensor(name, shape, type_id, kind.name, offset, size)

    def shape(self, name: str) -> tuple[int, ...]:
        dimensions = self.u32(f"the number of dimensions of tensor {name!r}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.broken(
                f"tensor {name!r} has {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}"
            )
        shape = tuple(self.u64(f"the shape of tensor {name!r}") for _ in range(dimensions))
        if min(shape) < 1 or prod(shape) >= 2**63:
            raise self.broken(f"tensor {name!r} has the impossible shape {list(shape)}")
        return shape

    def data_bytes(self, name: str, shape: tuple[int, ...], kind: TensorType) -> int:
        if shape[0] % kind.block_elements:
            raise self.broken(
                f"tensor {name!r} has rows of {shape[0]}, "
                f"not a multiple of {kind.name}'s block of {kind.block_elements}"
            )
        return prod(shape) // kind.block_elements * kind.block_bytes

    def placed(self, infos: list[GgufTensor], data_offset: int, alignment: int) -> list[GgufTensor]:
        """Return the tensors with offsets in the file.

        As llama.cpp does, this demands that they follow one another in the order of the list,
        each at the next aligned offset: no holes, no overlaps.
        """
        tensors, expected = [], 0
        for info in infos:
            if info.offset != expected:
                raise self.broken(
                    f"tensor {info.name!r} has offset {info.offset}, "
                    f"the tensors before it end at {expected}"
                )
            start, end = data_offset + expected, data_offset + expected + info.bytes
            if end > self.size:
                raise self.broken(
                    f"tensor {info.name!r} ends at byte {end}, the file has {self.size}"
                )
            tensors.append(
                GgufTensor(info.name, info.shape, info.type_id, info.type_name, start, info.bytes)
            )
            expected += -(-info.bytes // alignment) * alignment
        return tensors


def _check_blocks(header: GgufHeader) -> None:
    """Refuse a number of blocks that no model has. A file may leave it out (an adapter does)."""
    if "general.architecture" not in header.metadata:
        return
    key = f"{header.architecture}.block_count"
    if key in header.metadata and not 1 <= header.get(key, int) <= MAX_BLOCKS:
        raise broken(header.path, f"{key} is {header.get(key, int)}, not 1 to {MAX_BLOCKS}")


def _check_vocabulary(header: GgufHeader) -> None:
    """Refuse what makes llama.cpp abort or read out of bounds.

    That is: vocabulary arrays of different lengths, a token that appears twice, and a special
    token outside of the vocabulary.
    """
    if "tokenizer.ggml.tokens" not in header.metadata:
        return
    tokens = header.get_list("tokenizer.ggml.tokens", str)
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        entries = header.metadata.get(key)
        if entries is not None and (not isinstance(entries, list) or len(entries) != len(tokens)):
            found = len(entries) if isinstance(entries, list) else "no"
            raise broken(header.path, f"{key} has {found} entries for {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens):
        _refuse_repeated(header, tokens)
    for key in header.metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            token_id = header.get(key, int)
            if not 0 <= token_id < len(tokens):
                raise broken(
                    header.path, f"{key} is {token_id}, the vocabulary has {len(tokens)} tokens"
                )


def _refuse_repeated(header: GgufHeader, tokens: list[str]) -> None:
    first_ids: dict[str, int] = {}
    for token_id, token in enumerate(tokens):
        first = first_ids.setdefault(token, token_id)
        if token and first != token_id:  # llama.cpp gives empty tokens a name of their own
            raise broken(header.path, f"token {token!r:.60} has the ids {first} and {token_id}")
