"""How the next token is chosen from logits: one sampler for every engine.

It knows numbers only: no engine, no text. Its meaning is the docstring of `Sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError, UsageError
from runtimes.base import Sampling
from runtimes.sampling_ranges import RANGES

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]
# float32 cannot divide logits by less without overflow; only exact ties would differ.
GREEDY_BELOW = 1e-6


def validate(sampling: Sampling) -> None:
    """Raise UsageError that names the first value outside its range."""
    for name, allowed in RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not allowed.allows(value):
            raise UsageError(f"{name} is {value:g}, it should be {allowed.words}")
    if "" in sampling.stop:
        raise UsageError("a stop text is empty, it would end every answer before it begins")


class Sampler:
    """Chooses tokens for one answer; draws come from one seeded numpy generator."""

    def __init__(self, sampling: Sampling) -> None:
        """Raises UsageError if a value of `sampling` is outside its range."""
        validate(sampling)
        self._sampling = sampling
        self._generator = np.random.default_rng(sampling.seed)

    def choose(self, logits: Logits, tokens: Sequence[int]) -> int:
        """Return the id of the next token.

        `logits` has shape [vocabulary] and is left as it is; `tokens` is the text so far, prompt
        included. Raises InputError if the largest logit is not a finite number.
        """
        sampling = self._sampling
        if sampling.repetition_penalty != 1 and sampling.repetition_window:
            recent = tokens[-sampling.repetition_window :]
            logits = penalise(logits, recent, sampling.repetition_penalty)
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise InputError(
                "the model computed a logit that is not a finite number",
                hint="its file is damaged, or its scheme does not suit it: convert it again",
            )
        if sampling.temperature < GREEDY_BELOW:
            return best
        return self._draw(logits)

    def _draw(self, logits: Logits) -> int:
        ids, kept = candidates(logits, self._sampling)
        # Probabilities stay in double precision: a float32 sum over 150k tokens misses 1.
        weights = np.exp((kept - kept.max()) / np.float32(self._sampling.temperature))
        cumulative = np.cumsum(weights, dtype=np.float64)
        point = self._generator.random() * cumulative[-1]
        position = min(int(np.searchsorted(cumulative, point, side="right")), len(kept) - 1)
        return int(position if ids is None else ids[position])


def penalise(logits: Logits, recent: Sequence[int], penalty: float) -> Logits:
    """Return a copy of `logits` with the tokens of `recent` made less likely (CTRL, eq. 1).

    A positive logit is divided by `penalty`, a negative one multiplied, each token once, as in
    Hugging Face's RepetitionPenaltyLogitsProcessor.
    """
    ids = np.unique(np.asarray(recent, dtype=np.int64))
    changed = logits.copy()
    values = changed[ids]
    changed[ids] = np.where(values > 0, values / penalty, values * penalty)
    return changed


def candidates(logits: Logits, sampling: Sampling) -> tuple[TokenIds | None, Logits]:
    """Return the ids that top-k, top-p and min-p leave, ascending, and their logits.

    The ids are None where every token is left: no index array of a whole vocabulary is made.
    """
    ids: TokenIds | None = None
    if 0 < sampling.top_k < len(logits):
        ids = np.sort(np.argpartition(logits, -sampling.top_k)[-sampling.top_k :])
        logits = logits[ids]
    for keep in (_nucleus, _likely_enough):
        kept = keep(logits, sampling)
        if kept is not None:
            ids = kept if ids is None else ids[kept]
            logits = logits[kept]
    return ids, logits


def _nucleus(logits: Logits, sampling: Sampling) -> TokenIds | None:
    """Return the fewest positions that hold `top_p` of the probability (Holtzman et al. 2020)."""
    if sampling.top_p >= 1:
        return None
    weights = np.exp(logits - logits.max())
    total = float(weights.sum(dtype=np.float64))
    # Tokens below this share sum to less than 1 - top_p, so none of them is in the nucleus:
    # only the rest, usually a few hundred of 150k, needs sorting.
    possible = np.flatnonzero(weights >= (1 - sampling.top_p) * total / len(weights))
    order = possible[np.argsort(-weights[possible], kind="stable")]
    cumulative = np.cumsum(weights[order], dtype=np.float64)
    count = int(np.searchsorted(cumulative, sampling.top_p * total, side="left")) + 1
    return np.sort(order[:count])


def _likely_enough(logits: Logits, sampling: Sampling) -> TokenIds | None:
    """Return the positions with at least `min_p` times the largest probability."""
    if sampling.min_p <= 0:
        return None
    return np.flatnonzero(logits >= logits.max() + np.float32(math.log(sampling.min_p)))
