"""Learning from examples: the next token, where it is to be learnt.

Full weights or adapters, chats or texts: it is the same loss. It knows neither files nor templates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.train.dataset import DataSet, Part
from edgekit.train.hardware import Hardware
from edgekit.train.packing import Packed, layout, pack
from edgekit.train.team import ALONE, Team, shares

if TYPE_CHECKING:
    import torch

LARGEST_LOSS = 700.0  # nats: beyond it exp overflows, and no perplexity means anything
JUDGED_AT_ONCE = 1 << 16  # tokens: more examples are packed better, and wait in memory


class Supervision:
    """The lesson: say what the examples say. Judged by the mean loss of the evaluation part."""

    name = "training"
    figure, figure_name = "evaluation_loss", "evaluation loss"
    diverged = 2.0

    def __init__(
        self, model: Any, data: DataSet, row_tokens: int, hardware: Hardware, team: Team = ALONE
    ) -> None:
        """`row_tokens` is how many tokens, at most, of one or more examples lie in one row. A
        batch is divided among the processes of `team`, over which gradients are averaged."""
        self.lengths: Sequence[int] = data.training.lengths
        self._model, self._data = model, data
        self._row_tokens, self._hardware, self._team = row_tokens, hardware, team

    def backward(self, batch: list[int]) -> float:
        """Add the gradients of the mean loss over the batch's learnt tokens; return that mean."""
        import torch

        part = self._data.training
        targets = sum(part.targets[index] for index in batch) / self._team.size
        # Added up where it is computed: to look at it would hold a GPU up after each block.
        total = torch.zeros((), dtype=torch.float64, device=self._hardware.device)
        for block in self._blocks(part, batch):
            loss = self._loss(block) / targets
            loss.backward()
            total += loss.detach()
        return self._team.total(float(total)) / self._team.size

    def judge(self) -> dict[str, float]:
        """Return loss, in nats a token, and perplexity over all evaluation examples."""
        import torch

        part, total = self._data.evaluation, 0.0
        with torch.no_grad():  # not inference mode: divided weights could not be trained after it
            for batch in cut(part.lengths, JUDGED_AT_ONCE):
                total += sum(float(self._loss(block)) for block in self._blocks(part, batch))
        loss = self._team.total(total) / sum(part.targets)
        return {"evaluation_loss": loss, "evaluation_perplexity": math.exp(min(loss, LARGEST_LOSS))}

    def place(self, batch: list[int]) -> str:
        """Return which records the batch is made of."""
        return f"; its batch: {self._data.training.named(batch)}"

    def _blocks(self, part: Part, batch: Sequence[int]) -> Iterator[Packed]:
        """Yield this process's share of `batch`, in as many blocks as any other process has.

        Weights that are divided are put together by all processes at once: who has fewer blocks
        goes on with one that nothing is learnt from.
        """
        device = self._hardware.device
        laid = [self._layout(part, share) for share in shares(batch, part.lengths, self._team.size)]
        own = laid[self._team.rank]
        for rows, length in own:
            yield pack(rows, part.example, length, device)
        shortest = min(batch, key=part.lengths.__getitem__)
        for _ in range(max(map(len, laid)) - len(own)):
            block = pack([[shortest]], part.example, part.lengths[shortest], device)
            yield replace(block, learnt=block.learnt & False)

    def _layout(self, part: Part, batch: Sequence[int]) -> list[tuple[list[list[int]], int]]:
        most_tokens = self._hardware.logits_at_once // int(self._model.config.vocab_size)
        return list(layout(batch, part.lengths, self._row_tokens, most_tokens))

    def _loss(self, block: Packed) -> torch.Tensor:
        """Return the sum of the losses of the learnt tokens, in nats."""
        return summed_loss(self._logits(block), block)

    def _logits(self, block: Packed) -> torch.Tensor:
        with self._hardware.autocast():
            logits: torch.Tensor = self._model(
                block.token_ids, position_ids=block.position_ids, use_cache=False
            ).logits
        return logits


def summed_loss(logits: torch.Tensor, block: Packed) -> torch.Tensor:
    """Return the sum of -ln p over the learnt tokens of `block`; a scalar, float32.

    `logits` are [rows, length, vocabulary]; those at one position speak of the next.
    """
    import torch

    learnt = block.learnt[:, 1:]
    said, wanted = logits[:, :-1][learnt], block.token_ids[:, 1:][learnt]
    return torch.nn.functional.cross_entropy(said.float(), wanted, reduction="sum")


def cut(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Yield all indices in their order, in batches of about `most_tokens`."""
    batch: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        batch.append(index)
        tokens += length
        if tokens >= most_tokens:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch
