"""Learning from examples and from a larger model at once.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. The teacher
is asked at each step, on all tokens of its vocabulary. It knows neither files nor templates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from converters.checkpoint import Checkpoint
from converters.reference import load_tokenizer
from edgekit.errors import InputError
from edgekit.train.dataset import DataSet
from edgekit.train.hardware import Hardware
from edgekit.train.packing import Packed
from edgekit.train.supervised import JUDGED_AT_ONCE, LARGEST_LOSS, Supervision, cut, summed_loss
from edgekit.train.teacher import Teacher

if TYPE_CHECKING:
    import torch


class GuidedSupervision(Supervision):
    """The lesson: say what the examples say, and spread the rest as the teacher does.

    The loss is (1 - weight) times the examples', and weight times the divergence from the teacher
    at `temperature` T, times T squared, which keeps its gradients as large as they are at 1.
    """

    figure_name = "loss with the teacher's"

    def __init__(
        self, model: Any, data: DataSet, row_tokens: int, hardware: Hardware, teacher: Teacher,
        weight: float, temperature: float,
    ) -> None:  # fmt: skip
        """`row_tokens` as in `Supervision`."""
        super().__init__(model, data, row_tokens, hardware)
        self._teacher, self._weight, self._temperature = teacher, weight, temperature

    def judge(self) -> dict[str, float]:
        """Return loss, perplexity and the divergence from the teacher, in nats a token."""
        import torch

        part = self._data.evaluation
        said, apart = 0.0, 0.0
        with torch.inference_mode():
            for batch in cut(part.lengths, JUDGED_AT_ONCE):
                for block in self._blocks(part, batch):
                    losses = self._losses(block)
                    said, apart = said + float(losses[0]), apart + float(losses[1])
        targets = sum(part.targets)
        said, apart = said / targets, apart / targets
        return {
            "evaluation_loss": self._mixed(said, apart),
            "evaluation_perplexity": math.exp(min(said, LARGEST_LOSS)),
            "evaluation_divergence": apart,
        }

    def _loss(self, block: Packed) -> torch.Tensor:
        return self._mixed(*self._losses(block))

    def _mixed(self, said: Any, apart: Any) -> Any:
        weight = self._weight
        return (1 - weight) * said + weight * self._temperature**2 * apart

    def _losses(self, block: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sums, over the learnt tokens, of -ln p and of the divergence."""
        logits = self._logits(block)
        theirs = self._teacher.logits(block.token_ids, block.position_ids)
        learnt = block.learnt[:, 1:]
        ours, theirs = logits[:, :-1][learnt].float(), theirs[:, :-1][learnt]
        return summed_loss(logits, block), summed_divergence(theirs, ours, self._temperature)


def summed_divergence(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return KL(teacher || student) at `temperature`, in nats, summed over the positions.

    Both are logits, float32 [positions, vocabulary]; what one vocabulary has more than the other
    is padding behind the tokens, and does not count.
    """
    import torch

    size = min(teacher.shape[-1], student.shape[-1])
    p, q = ((logits[:, :size] / temperature).log_softmax(-1) for logits in (teacher, student))
    return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)


def require_same_tokens(student: Checkpoint, teacher: Checkpoint) -> None:
    """Raise InputError if the two do not have the same tokens, under the same numbers."""
    ours, theirs = (load_tokenizer(checkpoint).get_vocab() for checkpoint in (student, teacher))
    if ours != theirs:
        raise InputError(
            f"{teacher.path} has another tokenizer than {student.path}, so its answers cannot be "
            "compared token by token",
            hint="choose a teacher of the same family",
        )
