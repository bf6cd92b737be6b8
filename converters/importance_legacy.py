"""The importance matrices that llama.cpp wrote before they were GGUF files (`.dat`), read only.

Numbers are little-endian int32 and float32: how many rows; for each the length of its name, the
name, `ncall`, how many values, and the values, which are means times `ncall`; then the number of
chunks, the length of the text's name, and that name. It knows nothing of models.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError

MAX_FILE_BYTES = 1 << 30
MAX_ROWS = 65_536
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class LegacyMatrix:
    """`rows` maps the name of a GGUF matrix to mean squared activations, float32 [columns].

    `chunks` is of how many pieces of text; their length is not stored. `source` may be "".
    """

    rows: dict[str, NDArray[np.float32]]
    chunks: int
    source: str


def read_legacy(path: Path) -> LegacyMatrix:
    """Read the whole file. Raises InputError for one that is not such a matrix, or is damaged."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path} has {size} bytes, too many for an importance matrix")
        parser = _Parser(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return parser.matrix()


class _Parser:
    """Takes the parts of the file in order; nothing is believed that the file cannot hold."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._position = path, data, 0

    def matrix(self) -> LegacyMatrix:
        rows = dict(self._row() for _ in range(self._count("the number of rows", 1, MAX_ROWS)))
        if self._position == len(self._data):  # the oldest files end here
            return LegacyMatrix(rows, 0, "")
        chunks = self._count("the number of chunks", 0, 2**31 - 1)
        name = self._take(self._count("the length of the text's name", 0, 65_535))
        if self._position != len(self._data):
            raise self._broken(f"{len(self._data) - self._position} bytes follow its end")
        return LegacyMatrix(rows, chunks, name.decode("utf-8", "replace"))

    def _row(self) -> tuple[str, NDArray[np.float32]]:
        name = self._take(self._count("the length of a name", 1, MAX_NAME_BYTES))
        text = name.decode("utf-8", "replace")
        calls = self._count(f"the calls of {text}", 1, 2**31 - 1)
        values = self._count(f"the values of {text}", 1, MAX_FILE_BYTES // 4)
        sums = np.frombuffer(self._take(4 * values), dtype="<f4").astype(np.float32)
        return text, sums / np.float32(calls)

    def _count(self, what: str, least: int, most: int) -> int:
        (value,) = struct.unpack("<i", self._take(4))
        if not least <= value <= most:
            raise self._broken(f"{what} is {value}, not {least} to {most}")
        return int(value)

    def _take(self, count: int) -> bytes:
        piece = self._data[self._position : self._position + count]
        if len(piece) < count:
            raise self._broken(f"it ends {count - len(piece)} bytes too early")
        self._position += count
        return piece

    def _broken(self, what: str) -> InputError:
        return InputError(f"{self._path} is no importance matrix, or damaged: {what}")
