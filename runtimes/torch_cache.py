"""The KV cache of the torch engine: one block of memory, reserved once, with what attention asks.

It stands in for transformers' own caches, which copy all that is cached for every token. It
knows no model and no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PARTS = 2  # keys and values


class TorchCache:
    """Keys and values of every layer: [2 * layers, kv_heads, context, head_dim].

    `length` tokens are whole in every layer; what lies beyond is overwritten before it is read.
    The methods and the attribute below are those that transformers 4.57 asks of a cache.
    """

    is_compileable = False  # its length changes with every token

    def __init__(self, values: torch.Tensor) -> None:
        """`values` is the memory, of the shape above."""
        self.values = values
        self.length = 0

    @property
    def bytes_per_token(self) -> int:
        """Return the size of one token's keys and values in all layers."""
        parts, heads, _, head_dim = self.values.shape
        return int(parts * heads * head_dim * self.values.element_size())

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, _: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what a layer computed, [1, kv_heads, tokens, head_dim]; return all up to there."""
        end = self.length + keys.shape[-2]
        stored = self.values[PARTS * layer : PARTS * (layer + 1), :, :end]
        stored[0, :, self.length :] = keys[0]
        stored[1, :, self.length :] = values[0]
        return stored[0:1], stored[1:2]

    def get_seq_length(self, _: int = 0) -> int:
        """Return the number of tokens that are whole."""
        return self.length

    def get_mask_sizes(self, positions: torch.Tensor, _: int = 0) -> tuple[int, int]:
        """Return how many keys the tokens at `positions` see at most, and where these begin."""
        return self.length + len(positions), 0
