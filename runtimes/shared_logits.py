"""Logits between two processes: anonymous memory that both map, its descriptor handed over.

A 512-token score of a 150k vocabulary is 300 MB: too much for a pipe, nothing for a mapping.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray


class SharedLogits:
    """One growing piece of shared memory, seen as a float32 array. Its content is overwritten by
    the next use; arrays that were handed out stay mapped as long as somebody holds them.
    """

    def __init__(self, handle: int | None = None) -> None:
        """Open what another process made, by its descriptor, or make a new empty piece."""
        self.handle = _anonymous_file() if handle is None else handle
        self._mapped: mmap.mmap | None = None

    def grow(self, rows: int, columns: int) -> None:
        """Make room for an array of this shape. It never shrinks: old arrays must stay valid."""
        size = rows * columns * np.dtype(np.float32).itemsize
        if os.fstat(self.handle).st_size < size:
            os.ftruncate(self.handle, size)

    def array(self, rows: int, columns: int) -> NDArray[np.float32]:
        """Return the memory as an array of this shape; `grow` made room for it."""
        size = os.fstat(self.handle).st_size
        if rows * columns == 0:
            return np.empty((rows, columns), np.float32)
        if self._mapped is None or len(self._mapped) != size:
            self._mapped = mmap.mmap(self.handle, size)
        return np.frombuffer(self._mapped, np.float32, rows * columns).reshape(rows, columns)

    def close(self) -> None:
        """Give the memory back once no array of it is left. Safe to call twice."""
        self._mapped = None
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _anonymous_file() -> int:
    """Return the descriptor of a file without a name: memory on Linux, else a temporary file."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("edgekit-logits")
    with tempfile.TemporaryFile() as stream:
        return os.dup(stream.fileno())
