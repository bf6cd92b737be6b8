"""The loss: how far the student's next-token distribution is from what was kept of the teacher's.

Kept are the teacher's k most likely tokens; all others are one bucket. It knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOP_TOKENS = 128
ROUNDING = 1e-6  # what float32 loses of a row's mass: a smaller tail is no tail


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely tokens of each position: `ids` int64 and `log` float32, [..., k]."""

    ids: torch.Tensor
    log: torch.Tensor


def top_tokens(logits: torch.Tensor, k: int = TOP_TOKENS) -> TopTokens:
    """Return the `k` most likely tokens of `logits`, [..., vocabulary], and their
    log-probabilities; all tokens if there are fewer."""
    log = logits.float().log_softmax(-1)
    top = log.topk(min(k, logits.shape[-1]), dim=-1)
    return TopTokens(top.indices, top.values)


def divergence(teacher: TopTokens, logits: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher || student) in nats over k + 1 buckets, float32 [...].

    `logits`, [..., vocabulary], are the student's. The last bucket is the mass of all tokens that
    are not among the teacher's k: without it the student would be drawn to give them nothing
    (Anshumann et al. 2025, "Sparse Logit Sampling", arXiv 2503.16870). With k = vocabulary it is
    the full divergence.
    """
    import torch

    logits = logits.float()
    # gather and logsumexp, not log_softmax: one tensor of the vocabulary's width fewer
    q_log = logits.gather(-1, teacher.ids) - logits.logsumexp(-1, keepdim=True)
    p = teacher.log.exp()
    p_tail = 1 - p.sum(-1)
    q_tail = (1 - q_log.exp().sum(-1)).clamp(min=ROUNDING)
    tail = p_tail * (p_tail.clamp(min=ROUNDING).log() - q_tail.log())
    return (p * (teacher.log - q_log)).sum(-1) + torch.where(p_tail < ROUNDING, 0.0, tail)
