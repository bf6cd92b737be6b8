"""Examples side by side, and what a model with a head says of them: numbers in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.task import TaskKind
from edgekit.train.heads.examples import Asked

if TYPE_CHECKING:
    import torch

UNLEARNT = -100  # what torch's cross entropy leaves out


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples side by side, filled up on the right.

    `token_ids` int64 and `mask` int64 (1 where there is a token), [rows, length]; `answers` int64
    [rows, answers], UNLEARNT where nothing is learnt.
    """

    token_ids: torch.Tensor
    mask: torch.Tensor
    answers: torch.Tensor

    @property
    def targets(self) -> int:
        """Return how many answers are learnt."""
        return int((self.answers != UNLEARNT).sum())


def rows_of(examples: Sequence[Asked], padding: int, unlearnt: int | None, device: str) -> Rows:
    """Return `examples` side by side on `device`; an answer that is `unlearnt` is not learnt."""
    import torch

    ids = _padded([example.token_ids for example in examples], padding)
    lengths = np.array([len(example.token_ids) for example in examples])
    mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
    answers = _padded([example.answer for example in examples], UNLEARNT)
    if unlearnt is not None:
        answers[answers == unlearnt] = UNLEARNT
    return Rows(*(torch.from_numpy(array).to(device) for array in (ids, mask, answers)))


def logits_of(model: Any, kind: TaskKind, rows: Rows) -> torch.Tensor:
    """Return the logits for each of `rows.answers`: [rows, answers, outputs]."""
    texts = {"input_ids": rows.token_ids, "attention_mask": rows.mask}
    match kind:
        case "classes":
            logits: torch.Tensor = model(**texts).logits[:, None]
        case "entities":
            logits = model(**texts).logits
        case "pairs":
            before = model.prepare_decoder_input_ids_from_labels(rows.answers)
            logits = model(**texts, decoder_input_ids=before, use_cache=False).logits
    return logits


def summed_loss(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return the sum of -ln p over what is learnt; a scalar, float32."""
    import torch

    flat = logits.float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(
        flat, rows.answers.flatten(), ignore_index=UNLEARNT, reduction="sum"
    )


def _padded(rows: Sequence[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    longest = max(map(len, rows))
    out = np.full((len(rows), longest), value, dtype=np.int64)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out
