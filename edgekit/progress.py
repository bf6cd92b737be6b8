"""How work in progress is told to whoever watches: named tasks that count units.

A function that takes long accepts a `Progress` and knows nothing about bars or terminals:

    with progress.task("copying model.safetensors", total_bytes) as advance:
        for piece in pieces:
            advance(len(piece))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[int], None]
"""Tells that so many more units are done; never negative. The caller may be any one thread."""


class Progress(Protocol):
    """Someone who watches. Tasks may nest, and may end early: by success or by an exception."""

    def task(
        self, label: str, total: int | None, unit: str = "bytes"
    ) -> AbstractContextManager[Advance]:
        """Begin a task of `total` units (None: unknown), and end it when the block ends.

        `label` reads as a phrase in lower case ("quantising"). `unit` is what is counted:
        "bytes", or a plural noun such as "tensors".
        """
        ...


class NoProgress:
    """Nobody watches."""

    def task(
        self, label: str, total: int | None, unit: str = "bytes"
    ) -> AbstractContextManager[Advance]:
        """Return a task that tells nobody."""
        return nullcontext(_ignore)


def _ignore(_units: int) -> None:
    pass
