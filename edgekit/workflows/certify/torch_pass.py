"""Passes of torch over short windows: a checkpoint, or its graph with an artifact's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import TensorSpec
from converters.checkpoint import Checkpoint
from converters.divergence import log_normaliser
from converters.reference import load_model

Ids = Sequence[int]
Logits = NDArray[np.float32]
ROWS = 64


class TorchModel:
    """A transformers model in float32 and what a certificate asks of it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises InputError if transformers cannot load `checkpoint`."""
        self._model = load_model(checkpoint)
        self._parameters: dict[str, Any] | None = None

    def logits(self, token_ids: Ids) -> Logits:
        """Return the logits after each token: float32, [len(token_ids), vocabulary]."""
        import torch

        with torch.inference_mode():
            output = self._model(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
        array: Logits = output.float().numpy()
        return array

    def put(self, spec: TensorSpec, values: Logits) -> None:
        """Replace a weight by `values`, float32 in the checkpoint's shape."""
        import torch

        if self._parameters is None:
            self._parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            self._parameters[spec.name].copy_(torch.tensor(values))

    def put_head(self, values: Logits) -> None:
        """Give the model an output head of its own, whether or not it was tied."""
        import torch

        head = torch.nn.Parameter(torch.tensor(values), requires_grad=False)
        self._model.lm_head.weight = head

    def greedy(self, token_ids: Ids, count: int, stops: Ids) -> list[int]:
        """Return the `count` most likely tokens after `token_ids`, one after another.

        Ends at a token of `stops`, which is not part of the answer.
        """
        import torch

        answer: list[int] = []
        past: Any = None
        feed = torch.tensor([list(token_ids)])
        with torch.inference_mode():
            while len(answer) < count:
                output = self._model(feed, past_key_values=past, use_cache=True, logits_to_keep=1)
                token = int(output.logits[0, -1].argmax())
                if token in stops:
                    break
                answer.append(token)
                past, feed = output.past_key_values, torch.tensor([[token]])
        return answer


def divergence(reference: Logits, other: Logits) -> NDArray[np.float64]:
    """Return KL(reference || other) at each position, in nats: [positions].

    Both are logits, float32 [positions, vocabulary]; every token counts.
    """
    found = np.empty(len(reference))
    for first in range(0, len(reference), ROWS):
        part = slice(first, first + ROWS)
        p = reference[part] - log_normaliser(reference[part])
        q = other[part] - log_normaliser(other[part])
        found[part] = (np.exp(p) * (p - q)).sum(axis=1)
    return found


def same_top1(reference: Logits, other: Logits) -> NDArray[np.bool_]:
    """Return at which positions both have the same most likely token: [positions]."""
    return np.asarray(reference.argmax(axis=1) == other.argmax(axis=1))
