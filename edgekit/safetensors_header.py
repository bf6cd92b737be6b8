"""safetensors header: the list of tensors of a file, read as hostile input.

Every count, size and offset is checked against the file before it is used, so that a native
loader may open what passes. It reads no tensor data and knows no model.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgekit.errors import InputError

MAX_HEADER_BYTES = 100 << 20  # the limit of the specification
MAX_DIMENSIONS = 8
MAX_NUMBER = 1 << 48
# F64 and integers appear in buffers of old checkpoints; they are read but never exported.
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
ITEM_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: its safetensors dtype name, shape, file, and byte offset there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def bytes(self) -> int:
        """Return the size of the tensor's data."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> Iterator[TensorInfo]:
    """Yield the tensors of a safetensors file; check every size and offset against the file.

    The file is eight bytes of header length, a JSON header, then the data, without holes and
    without overlaps. Raises InputError.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise damaged(path, f"it has {size} bytes, too few for a header")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise damaged(path, f"its header claims {length} bytes, the file has {size}")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise damaged(path, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    infos = [_tensor_info(path, name, entry, 8 + length) for name, entry in header.items()]
    _check_layout(path, infos, 8 + length, size)
    yield from infos


def damaged(path: Path, what: str) -> InputError:
    """Return the error for a safetensors file that is not whole."""
    return InputError(f"{path} is damaged: {what}", hint="fetch it again")


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(path, f"the entry of tensor {name!r:.80} is malformed") from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise damaged(
            path, f"tensor {name} has dtype {dtype!r:.40}, known are {', '.join(ITEM_BYTES)}"
        )
    numbers = (*shape, begin, end)
    possible = all(type(n) is int and 0 <= n < MAX_NUMBER for n in numbers)
    if not possible or len(shape) > MAX_DIMENSIONS:
        raise damaged(path, f"tensor {name} has an impossible shape or offset")
    info = TensorInfo(name, dtype, shape, path, data_start + begin)
    if end - begin != info.bytes:
        raise damaged(path, f"tensor {name} has {end - begin} bytes, its shape needs {info.bytes}")
    return info


def _check_layout(path: Path, infos: list[TensorInfo], start: int, size: int) -> None:
    position = start
    for info in sorted(infos, key=lambda i: (i.offset, i.bytes)):
        if info.offset != position:
            raise damaged(path, f"tensor {info.name} starts at {info.offset}, not {position}")
        position += info.bytes
    if position != size:
        raise damaged(path, f"its tensors end at byte {position}, the file has {size}")
