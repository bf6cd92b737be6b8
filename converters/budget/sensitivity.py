"""Sensitivity: what an error in each weight costs, in nats of divergence, from one pass back.

Near the original the divergence is a quadratic form: KL = 1/2 d^T F d with the Fisher information
F of the model's own answers. Its Kronecker-factored diagonal (Martens and Grosse 2015, arXiv
1503.05671) is kept: for each matrix the mean squared inputs of its columns and the mean squared
gradients of its rows. So the loss of any rounding is a weighted sum of its squared errors, and
the losses of matrices can be compared and added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.architectures import ModelShape, Role, TensorSpec
from converters.importance import matrices
from converters.reference import Window
from edgekit.progress import Progress

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What squared errors of one matrix cost.

    `columns`: float32 [columns], mean squared inputs. `rows`: float32 [rows], mean squared
    gradients of the answers' log-probability by the outputs. `looked_up`: float32 [columns], the
    same gradients by the embedding's values, for a matrix that is also looked up in; else None.
    """

    columns: Floats
    rows: Floats
    looked_up: Floats | None = None

    def loss(self, errors: Floats, first: int = 0, step: int = 1) -> float:
        """Return what `errors`, float32 [rows, columns], cost in nats a position.

        `errors` may be of every `step`-th row from `first` on, standing for all.
        """
        squares = np.square(errors)
        by_row = (squares @ self.columns).astype(np.float64)
        total = float(by_row @ self.rows[first::step].astype(np.float64)) * step
        if self.looked_up is not None:  # each position reads one row
            total += float(squares.mean(axis=0, dtype=np.float64) @ self.looked_up)
        return total / 2


def measure_sensitivity(
    model: Any, shape: ModelShape, windows: Sequence[Window], progress: Progress, seed: int = 0
) -> dict[str, Sensitivity]:
    """Return the sensitivity of every matrix of `model`, a transformers model in float32, by name.

    Answers are drawn from the model's own distribution, as Fisher's information wants it: errors
    of different positions then add up without mixing.
    """
    tokens = sum(len(window.token_ids) for window in windows)
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    with (
        _listening(model, shape) as sums,
        progress.task("measuring sensitivity", tokens, unit="tokens") as advance,
    ):
        for window in windows:
            logits = model(torch.tensor([window.token_ids]), use_cache=False).logits[0]
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
            logits.log_softmax(-1).gather(1, drawn).sum().backward()
            advance(len(window.token_ids))
    found = {name: s.divided(tokens) for name, s in sums.items()}
    return _with_lookups(found, shape)


@dataclass(slots=True)
class _Sums:
    columns: torch.Tensor
    rows: torch.Tensor

    def divided(self, tokens: int) -> Sensitivity:
        return Sensitivity(*((v / tokens).numpy() for v in (self.columns, self.rows)))


LOOKUP = "lookup"


@contextmanager
def _listening(model: Any, shape: ModelShape) -> Iterator[dict[str, _Sums]]:
    """Sum squared inputs and squared gradients of outputs while the block runs."""
    sums: dict[str, _Sums] = {}
    handles = []
    for spec in matrices(shape):
        sums[spec.name] = total = _Sums(torch.zeros(spec.shape[1]), torch.zeros(spec.shape[0]))
        handles.append(_module(model, spec).register_forward_hook(_adder(total)))
    sums[LOOKUP] = total = _Sums(torch.zeros(0), torch.zeros(shape.hidden))
    handles.append(model.model.embed_tokens.register_forward_hook(_adder(total, starts=True)))
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _adder(total: _Sums, starts: bool = False) -> Any:
    """Return a hook that adds up a module's inputs, and its outputs' gradients on the way back.

    With `starts` the module is the first: from its outputs on, gradients are recorded.
    """

    def on_gradient(gradient: torch.Tensor) -> None:
        total.rows.add_(gradient.flatten(0, -2).square().sum(0))

    def on_outputs(_module: Any, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> Any:
        if starts:
            outputs = outputs.detach().requires_grad_(True)
        else:
            total.columns.add_(inputs[0].detach().flatten(0, -2).square().sum(0))
        outputs.register_hook(on_gradient)
        return outputs

    return on_outputs


def _module(model: Any, spec: TensorSpec) -> Any:
    """Return the torch module that multiplies by a matrix; a tied embedding is also the head."""
    is_head = spec.role in (Role.EMBEDDING, Role.OUTPUT)
    return model.lm_head if is_head else model.get_submodule(spec.name.removesuffix(".weight"))


def _with_lookups(found: dict[str, Sensitivity], shape: ModelShape) -> dict[str, Sensitivity]:
    """Give the embedding's matrix what its looked-up values cost."""
    gradients = found.pop(LOOKUP).rows
    name = f"{Role.EMBEDDING}.weight"
    if shape.tied_embeddings:
        head = found[name]
        found[name] = Sensitivity(head.columns, head.rows, gradients)
    else:
        nothing = np.zeros(shape.vocabulary_size, np.float32)
        found[name] = Sensitivity(np.zeros(shape.hidden, np.float32), nothing, gradients)
    return found
