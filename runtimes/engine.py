"""Engine: the few operations that an inference library must offer for a Runtime to stand on it.

An engine runs inside the worker process. It feeds tokens and returns logits; it does not
sample, render templates, or know what a conversation is. The generation loop on top is one for
all engines, which is why sampling means the same in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Interrupted(Exception):  # noqa: N818 - a message between threads, not an error
    """`evaluate` was stopped by `interrupt`. The tokens before the call are still in the cache."""


class Engine(Protocol):
    """A model with one KV cache. One thread calls it; only `interrupt` may come from another."""

    @property
    def context_length(self) -> int:
        """Return how many tokens the KV cache holds."""

    @property
    def vocabulary_size(self) -> int:
        """Return the length of a row of logits."""

    @property
    def threads(self) -> int:
        """Return the number of threads that the engine computes with."""

    @property
    def cached_tokens(self) -> Sequence[int]:
        """Return the ids whose keys and values are in the cache, in order."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of `text`; see Runtime.tokenize."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; a special token gives its own text."""

    def evaluate(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Append `token_ids` to the cache and return the logits after the last, shape [vocabulary].

        The array is only valid until the next call. Raises Interrupted.
        """

    def truncate(self, length: int) -> None:
        """Forget every token of the cache from position `length` on."""

    def score(self, token_ids: Sequence[int], out: NDArray[np.float32]) -> None:
        """Write the logits after each token into `out`, shape [len(token_ids), vocabulary].

        Starts from an empty cache and leaves it in a valid state. Raises Interrupted.
        """

    def interrupt(self) -> None:
        """Make a running `evaluate` or `score` raise Interrupted soon (within 250 ms)."""

    def save_state(self, path: Path) -> None:
        """Write the cache and its tokens to the file `path`."""

    def load_state(self, path: Path) -> None:
        """Replace the cache by what `save_state` wrote; raises InputError if it does not fit."""

    def close(self) -> None:
        """Free the model. Safe to call twice."""
