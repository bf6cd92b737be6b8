"""Taught text: windows of tokens, and what the teacher says at each position, kept on disk.

The teacher runs once, so that it and the student need no memory at the same time, and a text
that is trained on twice costs one pass. A kilobyte a token; one file a shard. It does not know
where text comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.reference import Window
from edgekit.progress import Advance
from edgekit.tensors_file import load_tensors, save_tensors
from edgekit.train.hardware import Hardware
from edgekit.train.loss import TOP_TOKENS, TopTokens, top_tokens
from edgekit.train.order import blocks

if TYPE_CHECKING:
    import torch

BYTES_PER_TOKEN = TOP_TOKENS * 8 + 4

LogitsOf = Callable[["torch.Tensor"], "torch.Tensor"]
"""Maps token ids, [windows, length], to the teacher's logits, [windows, length, vocabulary]."""


@dataclass(frozen=True, slots=True)
class Block:
    """Windows side by side, padded on the right.

    `token_ids` int64 and `is_real` bool, [windows, length]; `teacher` has [windows, length, k].
    """

    token_ids: torch.Tensor
    is_real: torch.Tensor
    teacher: TopTokens


class TaughtText:
    """The windows of several shards. Holds what the files hold; nothing is changed."""

    def __init__(self, shards: Sequence[dict[str, torch.Tensor]]) -> None:
        """Take shards as `teach` makes them."""
        self._shards = shards
        self._places: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        for number, shard in enumerate(shards):
            position = 0
            for length in shard["lengths"].tolist():
                self._places.append((number, position))
                self.lengths.append(length)
                position += length

    def token_ids(self, most: int) -> list[list[int]]:
        """Return the token ids of the first windows, about `most` tokens in all."""
        found: list[list[int]] = []
        for window in range(len(self.lengths)):
            if sum(map(len, found)) >= most:
                break
            found.append(self._rows("token_ids", window).tolist())
        return found

    def block(self, windows: Sequence[int], hardware: Hardware) -> Block:
        """Return the windows with these indices, on the device that `hardware` names."""
        import torch

        longest = max(self.lengths[window] for window in windows)

        def padded(name: str) -> torch.Tensor:
            rows = [self._rows(name, window) for window in windows]
            out = rows[0].new_zeros((len(rows), longest, *rows[0].shape[1:]))
            for target, row in zip(out, rows, strict=True):
                target[: len(row)] = row
            return out.to(hardware.device)

        lengths = torch.tensor([self.lengths[window] for window in windows])
        return Block(
            token_ids=padded("token_ids").long(),
            is_real=(torch.arange(longest) < lengths[:, None]).to(hardware.device),
            teacher=TopTokens(padded("top_ids").long(), padded("top_log")),
        )

    def _rows(self, name: str, window: int) -> torch.Tensor:
        number, first = self._places[window]
        return self._shards[number][name][first : first + self.lengths[window]]


def load_shard(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the shard in `path`; None if it is absent or damaged."""
    found = load_tensors(path)
    return None if found is None else found[0]


def save_shard(path: Path, shard: dict[str, torch.Tensor]) -> None:
    """Write a shard to `path`, atomically. Raises GateError."""
    save_tensors(path, shard, {})


def teach(
    windows: Sequence[Window], logits_of: LogitsOf, hardware: Hardware, vocabulary: int,
    advance: Advance,
) -> dict[str, Any]:  # fmt: skip
    """Return the shard of `windows`: what the teacher behind `logits_of` says of them.

    int32 `token_ids` [tokens], `lengths` [windows], `top_ids` [tokens, k]; float32 `top_log`
    [tokens, k]. `vocabulary` is the number of logits of a position.
    """
    import torch

    lengths = [len(window.token_ids) for window in windows]
    said: dict[int, TopTokens] = {}
    for block in blocks(range(len(windows)), lengths, hardware.logits_at_once // vocabulary):
        longest = lengths[block[0]]
        ids = [[*windows[i].token_ids] + [0] * (longest - lengths[i]) for i in block]
        top = top_tokens(logits_of(torch.tensor(ids)))
        for row, i in enumerate(block):
            length = lengths[i]
            said[i] = TopTokens(top.ids[row, :length].int().cpu(), top.log[row, :length].cpu())
        advance(sum(lengths[i] for i in block))
    in_order = [said[i] for i in range(len(windows))]
    return {
        "token_ids": torch.tensor([t for w in windows for t in w.token_ids], dtype=torch.int32),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "top_ids": torch.cat([top.ids for top in in_order]),
        "top_log": torch.cat([top.log for top in in_order]),
    }
