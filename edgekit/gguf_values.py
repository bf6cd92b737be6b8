"""The values of a GGUF file: numbers, strings and arrays, taken from its front one by one.

Each is checked against the end of the file before it is taken. It does not know what they mean.
"""

from __future__ import annotations

import struct
from pathlib import Path

from edgekit.errors import InputError

Scalar = str | int | float | bool
Value = Scalar | list[str] | list[int] | list[float] | list[bool]

MAX_HEADER_BYTES = 64 << 20
MAX_ARRAY_ELEMENTS = 4 << 20  # of all arrays together; a vocabulary of 256,000 needs 1.3 million

BOOL, STRING, ARRAY = 7, 8, 9
_SCALAR_CODES = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class BeyondBufferError(Exception):
    """The header goes on beyond the bytes read so far, but not beyond the file."""


def broken(path: Path, what: str) -> InputError:
    """Return the error for a file that is not a GGUF file as it should be."""
    return InputError(f"{path} is not a sound GGUF file: {what}", hint="fetch or convert it again")


class ValueReader:
    """Takes values from `data`, the first bytes of the file `path`, which has `size` bytes.

    Every method raises InputError for what cannot be, and BeyondBufferError where `data` is too
    short to tell. `what` names the value in the message.
    """

    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.position = 0
        self.array_elements = 0

    def broken(self, what: str) -> InputError:
        return broken(self.path, what)

    def advance(self, count: int, what: str) -> int:
        """Step over `count` bytes and return the position before them."""
        start, end = self.position, self.position + count
        if end > len(self.data):
            self.beyond(end, what)
        self.position = end
        return start

    def beyond(self, end: int, what: str) -> None:
        if end > self.size:
            raise self.broken(f"{what} ends at byte {end}, the file has {self.size}")
        raise BeyondBufferError

    def u32(self, what: str) -> int:
        value: int = _U32.unpack_from(self.data, self.advance(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack_from(self.data, self.advance(8, what))[0]
        return value

    def count(self, what: str, limit: int, smallest_bytes: int) -> int:
        """Take a count; refuse one that the rest of the file cannot hold."""
        count = self.u64(f"the number of {what}")
        if count > limit:
            raise self.broken(f"it claims {count} {what}, the most allowed are {limit}")
        rest = self.size - self.position
        if count * smallest_bytes > rest:
            raise self.broken(f"it claims {count} {what}, and {rest} bytes are left for them")
        return count

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise self.broken(f"{what} claims {length} bytes, the most allowed are {limit}")
        start = self.advance(length, what)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"{what} is not UTF-8 at byte {error.start} of {length}") from error

    def value(self, what: str) -> Value:
        kind = self.u32(f"the type of {what}")
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self.array(what)
        return self.scalars(kind, 1, what)[0]

    def array(self, what: str) -> Value:
        kind = self.u32(f"the element type of {what}")
        if kind == ARRAY:
            raise self.broken(f"{what} is an array of arrays, which no engine reads")
        limit = MAX_ARRAY_ELEMENTS - self.array_elements
        count = self.count(f"elements in {what}", limit, 8 if kind == STRING else 1)
        self.array_elements += count
        return self.strings(count, what) if kind == STRING else self.scalars(kind, count, what)

    def scalars(self, kind: int, count: int, what: str) -> list[int] | list[float] | list[bool]:
        code = _SCALAR_CODES.get(kind)
        if code is None:
            raise self.broken(f"{what} has type {kind}, known are 0 to {max(_SCALAR_CODES)}")
        layout = struct.Struct(f"<{count}{code}")
        values = list(layout.unpack_from(self.data, self.advance(layout.size, what)))
        if kind != BOOL:
            return values
        if count and max(values) > 1:
            raise self.broken(f"{what} holds {max(values)} where a boolean is 0 or 1")
        return [bool(value) for value in values]

    def strings(self, count: int, what: str) -> list[str]:
        """Take `count` strings. A vocabulary has 100,000s of them, so the loop is kept bare."""
        data, position, end = self.data, self.position, len(self.data)
        length_at = _U64.unpack_from
        values: list[bytes] = []
        for _ in range(count):
            start = position + 8
            if start > end:
                self.beyond(start, what)
            position = start + length_at(data, position)[0]
            if position > end:
                self.beyond(position, f"element {len(values) + 1} of {what}")
            values.append(data[start:position])
        self.position = position
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError as error:
            raise self.broken(f"{what} holds {error.object!r:.60}, which is not UTF-8") from error
