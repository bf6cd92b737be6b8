"""Learning from preferences: the chosen answer, rather than the rejected one.

Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290: the reward of an answer
is beta times how much likelier it has become than it was before training, and the chosen
one is to have the larger reward. It knows neither files nor templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.progress import Progress
from edgekit.tensors_file import load_tensors, save_tensors
from edgekit.train.dataset import DataSet, Part
from edgekit.train.hardware import Hardware
from edgekit.train.packing import Packed, layout, pack
from edgekit.train.preference_examples import pair_lengths
from edgekit.train.supervised import JUDGED_AT_ONCE, cut

if TYPE_CHECKING:
    import torch

REFERENCE = "reference.safetensors"
TRAINING, EVALUATION = "training", "evaluation"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Whole pairs side by side: their numbers in the part, their tokens, and `owner`, int64
    [rows, length]: 2 n at the tokens of the n-th pair's chosen answer, 2 n + 1 at the other's."""

    numbers: list[int]
    packed: Packed
    owner: torch.Tensor


class PreferenceLesson:
    """The lesson: give the chosen answer the larger reward. Judged by the loss over the pairs of
    the evaluation part; the accuracy is the share of pairs with the larger reward for the chosen
    answer, equal ones counting half, and the margin the mean difference of rewards."""

    name = "training"
    figure, figure_name = "evaluation_loss", "preference loss"
    diverged = 3.0  # it begins at ln 2

    def __init__(
        self, model: Any, data: DataSet, row_tokens: int, hardware: Hardware, beta: float
    ) -> None:
        """`row_tokens` is how many tokens, at most, of one or more pairs lie in one row."""
        self._parts = {TRAINING: data.training, EVALUATION: data.evaluation}
        self._lengths = {name: pair_lengths(part) for name, part in self._parts.items()}
        self.lengths: Sequence[int] = self._lengths[TRAINING]
        self._model, self._row_tokens, self._hardware = model, row_tokens, hardware
        self._beta = beta
        self._reference: dict[str, torch.Tensor] = {}

    def ask_reference(self, folder: Path, progress: Progress) -> None:
        """Let the model as it is now, before training, be what it is compared with.

        What it says of the pairs is kept in `folder`, and not asked again.
        """
        found = load_tensors(folder / REFERENCE)
        sizes = {name: (len(lengths), 2) for name, lengths in self._lengths.items()}
        if found is not None and {n: tuple(v.shape) for n, v in found[0].items()} == sizes:
            self._reference = found[0]
            return
        total = sum(len(lengths) for lengths in self._lengths.values())
        with progress.task("asking the model before training", total, "pairs") as advance:
            for name in (EVALUATION, TRAINING):
                self._reference[name] = self._said(name, advance)
        save_tensors(folder / REFERENCE, self._reference, {})

    def ask_evaluation_reference(self) -> None:
        """The same for a model that is only judged, not trained; nothing is kept."""
        self._reference = {EVALUATION: self._said(EVALUATION, lambda _pairs: None)}

    def backward(self, batch: list[int]) -> float:
        """Add the gradients of the mean loss over the pairs of `batch`; return that mean."""
        total = 0.0
        for pairs in self._blocks(TRAINING, batch):
            margins = self._margins(TRAINING, pairs.numbers, self._log_probabilities(pairs))
            loss = preference_losses(margins).sum() / len(batch)
            loss.backward()
            total += float(loss.detach())
        return total

    def judge(self) -> dict[str, float]:
        """Return loss, accuracy and margin over all evaluation pairs."""
        said = self._said(EVALUATION, lambda _pairs: None)
        margins = self._margins(EVALUATION, list(range(len(said))), said).double()
        preferred = (margins > 0).double() + (margins == 0).double() / 2
        return {
            "evaluation_loss": float(preference_losses(margins).mean()),
            "evaluation_accuracy": float(preferred.mean()),
            "evaluation_margin": float(margins.mean()),
        }

    def place(self, batch: list[int]) -> str:
        """Return which records the batch is made of."""
        return f"; its batch: {self._parts[TRAINING].named([2 * pair for pair in batch])}"

    def _margins(
        self, part: str, numbers: list[int], log_probabilities: torch.Tensor
    ) -> torch.Tensor:
        """Return the chosen answers' rewards less the rejected ones': [pairs]."""
        before = self._reference[part][numbers].to(log_probabilities.device)
        rewards = self._beta * (log_probabilities - before)
        return rewards[:, 0] - rewards[:, 1]

    def _said(self, name: str, advance: Any) -> torch.Tensor:
        """Return ln p of all answers of a part, float32 [pairs, 2], on the CPU."""
        import torch

        lengths = self._lengths[name]
        found = torch.zeros(len(lengths), 2)
        with torch.inference_mode():
            for batch in cut(lengths, JUDGED_AT_ONCE):
                for pairs in self._blocks(name, batch):
                    found[pairs.numbers] = self._log_probabilities(pairs).cpu()
                    advance(len(pairs.numbers))
        return found

    def _blocks(self, name: str, batch: Sequence[int]) -> Iterator[Pairs]:
        """Yield the pairs of `batch`, in blocks of rows: a pair is never torn apart."""
        lengths = self._lengths[name]
        most = self._hardware.logits_at_once // int(self._model.config.vocab_size)
        for laid, length in layout(batch, lengths, self._row_tokens, most):
            yield pack_pairs(self._parts[name], laid, length, self._hardware.device)

    def _log_probabilities(self, pairs: Pairs) -> torch.Tensor:
        """Return ln p of each answer, summed over its tokens: float32 [pairs, 2]."""
        with self._hardware.autocast():
            logits = self._model(
                pairs.packed.token_ids, position_ids=pairs.packed.position_ids, use_cache=False
            ).logits
        return summed_log_probabilities(logits, pairs)


def preference_losses(margins: torch.Tensor) -> torch.Tensor:
    """Return -ln sigmoid of the differences of rewards, in nats."""
    import torch

    return -torch.nn.functional.logsigmoid(margins)


def summed_log_probabilities(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Return ln p of each answer's learnt tokens, summed: float32 [pairs, 2].

    `logits` are [rows, length, vocabulary]; those at one position speak of the next.
    """
    import torch

    learnt = pairs.packed.learnt[:, 1:]
    said, wanted = logits[:, :-1][learnt].float(), pairs.packed.token_ids[:, 1:][learnt]
    log = -torch.nn.functional.cross_entropy(said, wanted, reduction="none")
    sums = log.new_zeros(2 * len(pairs.numbers))
    return sums.index_add(0, pairs.owner[:, 1:][learnt], log).view(-1, 2)


def pack_pairs(part: Part, laid: Sequence[Sequence[int]], length: int, device: str) -> Pairs:
    """Return rows of pairs, each answer with its prompt an example that sees no other."""
    import torch

    examples = [[e for pair in row for e in (2 * pair, 2 * pair + 1)] for row in laid]
    owner = np.zeros((len(laid), length), np.int64)
    slot = 0
    for row, indices in enumerate(examples):
        first = 0
        for index in indices:
            end = first + part.lengths[index]
            owner[row, first:end] = slot
            first, slot = end, slot + 1
    packed = pack(examples, part.example, length, device)
    numbers = [pair for row in laid for pair in row]
    return Pairs(numbers, packed, torch.from_numpy(owner).to(device))
