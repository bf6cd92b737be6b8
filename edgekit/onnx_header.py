"""ONNX header: the graph of an ONNX file, walked as hostile input.

Every length is checked before it is used, every tensor must lie where the file says, inside
this folder, and every operator must be of a known domain: what passes may be opened by a
native loader. No tensor data is read, and what the graph computes is not looked at.

Formats: https://protobuf.dev/programming-guides/encoding/ and onnx.proto of
https://github.com/onnx/onnx.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from edgekit.errors import InputError

MAX_GRAPH_BYTES = 256 << 20
MAX_FIELDS = 1 << 20  # a graph of edgekit's has some twenty thousand
MAX_NESTING = 8  # graphs inside attributes of nodes
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48
DOMAINS = ("", "ai.onnx", "com.microsoft")
EXTERNAL = 1
# TensorProto.DataType -> bytes; the types of onnx.proto whose items fill whole bytes
ITEM_BYTES = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16,
    16: 2, 17: 1, 18: 1, 19: 1, 20: 1,
}  # fmt: skip
UINT4, INT4 = 21, 22
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]  # number, wire type, then value and 0, or start and end


@dataclass(slots=True)
class _Tensor:
    """What a TensorProto says of itself."""

    name: str = ""
    data_type: int = 0
    dims: list[int] = field(default_factory=list)
    external: bool = False
    raw_bytes: int | None = None
    place: dict[str, str] = field(default_factory=dict)


def check(path: Path) -> None:
    """Check the ONNX file `path` and the files that hold its tensors.

    Raises InputError for anything that is not a whole, well-formed model of known operator
    domains, without local functions and training graphs, whose tensors lie inside plain files
    of the same folder and have the size that their dimensions say.
    """
    try:
        size = path.stat().st_size
        if size > MAX_GRAPH_BYTES:
            raise InputError(f"{path} has {size} bytes, a graph may have {MAX_GRAPH_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    _Walk(path, data).model()


class _Walk:
    """One pass over the bytes of a model. Message and field numbers are those of onnx.proto."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data
        self.file_bytes: dict[str, int] = {}
        self.fields = 0

    def model(self) -> None:
        """ModelProto: 7 graph, 8 opset imports, 20 training, 25 functions."""
        graphs, opsets = 0, 0
        for number, start, end in self._messages(0, len(self.data), (7, 8, 20, 25)):
            match number:
                case 7:
                    graphs += 1
                    self._graph(start, end, 0)
                case 8:
                    opsets += 1
                    self._opset(start, end)
                case _:
                    raise self._error("it holds functions or training graphs of its own")
        if graphs != 1 or opsets == 0:
            raise self._error(f"it holds {graphs} graphs and {opsets} operator sets")

    def _opset(self, start: int, end: int) -> None:
        """OperatorSetIdProto: 1 domain."""
        for _, first, last in self._messages(start, end, (1,)):
            self._known_domain(self._text(first, last))

    def _graph(self, start: int, end: int, depth: int) -> None:
        """GraphProto: 1 nodes, 5 initialisers, 15 sparse initialisers."""
        if depth > MAX_NESTING:
            raise self._error(f"its graphs are nested more than {MAX_NESTING} deep")
        for number, first, last in self._messages(start, end, (1, 5, 15)):
            match number:
                case 1:
                    self._node(first, last, depth)
                case 5:
                    self._tensor(first, last)
                case _:
                    raise self._error("it holds sparse tensors")

    def _node(self, start: int, end: int, depth: int) -> None:
        """NodeProto: 5 attributes, 7 domain."""
        for number, first, last in self._messages(start, end, (5, 7)):
            if number == 7:
                self._known_domain(self._text(first, last))
            else:
                self._attribute(first, last, depth)

    def _attribute(self, start: int, end: int, depth: int) -> None:
        """AttributeProto: 5 and 10 tensors, 6 and 11 graphs, 22 and 23 sparse tensors."""
        for number, first, last in self._messages(start, end, (5, 6, 10, 11, 22, 23)):
            match number:
                case 5 | 10:
                    self._tensor(first, last)
                case 6 | 11:
                    self._graph(first, last, depth + 1)
                case _:
                    raise self._error("it holds sparse tensors")

    def _tensor(self, start: int, end: int) -> None:
        """TensorProto: 1 dims, 2 type, 3 segment, 8 name, 9 raw data, 13 and 14 outside data."""
        tensor = _Tensor()
        for number, wire, first, last in self._fields(start, end):
            match number, wire:
                case 1, 0:
                    tensor.dims.append(first)
                case 1, 2 if last - first <= 10 * MAX_DIMENSIONS:
                    tensor.dims.extend(self._varints(first, last))
                case 2, 0:
                    tensor.data_type = first
                case 8, 2:
                    tensor.name = self._text(first, last)
                case 9, 2:
                    tensor.raw_bytes = last - first
                case 13, 2:
                    self._place(first, last, tensor.place)
                case 14, 0:
                    tensor.external = first == EXTERNAL
                case ((1 | 2 | 3 | 8 | 9 | 13 | 14), _):
                    raise self._error(f"tensor {tensor.name!r:.80} is malformed")
        self._check_tensor(tensor)

    def _place(self, start: int, end: int, place: dict[str, str]) -> None:
        """StringStringEntryProto: 1 key, 2 value."""
        entry = {1: "", 2: ""}
        for number, first, last in self._messages(start, end, (1, 2)):
            entry[number] = self._text(first, last)
        if entry[1] in place:
            raise self._error(f"a tensor names its {entry[1]!r:.40} twice")
        place[entry[1]] = entry[2]

    def _check_tensor(self, tensor: _Tensor) -> None:
        dims = tensor.dims
        if len(dims) > MAX_DIMENSIONS or prod(dims) > MAX_ELEMENTS or max(dims, default=0) > 2**40:
            raise self._error(f"tensor {tensor.name!r:.80} has impossible dimensions {dims!r:.80}")
        expected = _data_bytes(tensor)
        if tensor.external or tensor.place:
            if not tensor.external or tensor.raw_bytes is not None:
                raise self._error(f"tensor {tensor.name!r:.80} is inside and outside the file")
            self._check_place(tensor, expected)
        elif tensor.raw_bytes is not None and expected not in (None, tensor.raw_bytes):
            raise self._error(
                f"tensor {tensor.name!r:.80} has {tensor.raw_bytes} bytes, "
                f"its dimensions need {expected}"
            )

    def _check_place(self, tensor: _Tensor, expected: int | None) -> None:
        location = tensor.place.get("location", "")
        size = self._size_of(location)
        offset = self._number(tensor, "offset", 0)
        length = self._number(tensor, "length", size - offset)
        if length < 0 or offset + length > size:
            raise self._error(
                f"tensor {tensor.name!r:.80} ends at byte {offset + length} of {location}, "
                f"which has {size}"
            )
        if expected is None or expected != length:
            raise self._error(
                f"tensor {tensor.name!r:.80} has {length} bytes, its dimensions need {expected}"
            )

    def _number(self, tensor: _Tensor, key: str, default: int) -> int:
        text = tensor.place.get(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise self._error(f"tensor {tensor.name!r:.80} has the {key} {text!r:.40}")
        return int(text)

    def _size_of(self, location: str) -> int:
        """Return the size of the file beside the model that `location` names."""
        if location not in self.file_bytes:
            plain = location not in ("", ".", "..") and not set(location) & set("/\\:\0")
            file = self.path.parent / (location if plain else "?")
            if not plain or file.is_symlink() or not file.is_file():
                raise self._error(
                    f"its tensors should be in {location!r:.80}, "
                    "which is not a plain file of the same folder"
                )
            self.file_bytes[location] = file.stat().st_size
        return self.file_bytes[location]

    def _known_domain(self, domain: str) -> None:
        if domain not in DOMAINS:
            raise self._error(
                f"it needs operators of {domain!r:.60}, known are those of ai.onnx, com.microsoft"
            )

    def _messages(
        self, start: int, end: int, wanted: tuple[int, ...]
    ) -> Iterator[tuple[int, int, int]]:
        """Yield number, start and end of the fields `wanted`, which hold messages or text."""
        for number, wire, first, last in self._fields(start, end):
            if number in wanted:
                if wire != BYTES:
                    raise self._error(f"a field at byte {start} has the wrong type")
                yield number, first, last

    def _fields(self, position: int, end: int) -> Iterator[Field]:
        """Yield every field between two positions, which hold whole fields and nothing else."""
        while position < end:
            key, position = self._varint(position, end)
            number, wire = key >> 3, key & 7
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise self._error(f"it has more than {MAX_FIELDS} fields")
            if number == 0:
                raise self._error(f"the field at byte {position} has number 0")
            if wire == VARINT:
                value, position = self._varint(position, end)
                yield number, wire, value, 0
                continue
            if wire == BYTES:
                length, position = self._varint(position, end)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise self._error(f"the field at byte {position} has unknown type {wire}")
            if length > end - position:
                raise self._error(f"the field at byte {position} claims {length} bytes")
            yield number, wire, position, position + length
            position += length

    def _varints(self, position: int, end: int) -> Iterator[int]:
        while position < end:
            value, position = self._varint(position, end)
            yield value

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Return a number of at most ten bytes, seven bits each, and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise self._error(f"it ends inside a number at byte {position}")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise self._error(f"the number at byte {position} does not end")

    def _text(self, start: int, end: int) -> str:
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            raise self._error(f"the text at byte {start} is not UTF-8") from error

    def _error(self, what: str) -> InputError:
        return InputError(f"{self.path} is damaged or not an ONNX model: {what}",
                          hint="convert it again, or copy it again")  # fmt: skip


def _data_bytes(tensor: _Tensor) -> int | None:
    """Return the size that type and dimensions imply, or None for an unknown type."""
    elements = prod(tensor.dims)
    if tensor.data_type in (UINT4, INT4):
        return (elements + 1) // 2
    item_bytes = ITEM_BYTES.get(tensor.data_type)
    return None if item_bytes is None else elements * item_bytes
