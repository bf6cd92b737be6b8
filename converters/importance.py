"""Importance: how much each input channel of each matrix matters, measured on a calibration text.

A wrong weight does harm in proportion to what it is multiplied with, so the squared error of a
column counts by the mean squared activation of its channel: the diagonal of the layer's Hessian,
as llama.cpp's importance matrix has it. It knows nothing of files; see `importance_file`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, Role, TensorSpec
from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.errors import InputError
from edgekit.progress import Progress

if TYPE_CHECKING:
    import torch

# A channel that the text never used must not be free: another text may use it. A block whose
# channels all count nothing would also leave ggml without any criterion.
LEAST_SHARE = 1e-3
CHUNK_TOKENS = 512  # llama.cpp counts the text in chunks
HINT = "collect it again from this checkpoint, or leave it out"


@dataclass(frozen=True, slots=True)
class Importance:
    """Mean squared activations: `channels` maps a matrix to float32 [columns].

    The names are those of the checkpoint. `tokens` is how many positions were averaged; `source`
    says of which text, for people.
    """

    channels: Mapping[str, NDArray[np.float32]]
    tokens: int
    source: str

    def of(self, spec: TensorSpec) -> NDArray[np.float32]:
        """Return what the columns of a matrix count, float32 [columns], all above 0.

        Raises InputError if there is no such row, or one of another length, or an impossible one.
        """
        row = self.channels.get(spec.name)
        if row is None:
            raise InputError(f"the importance matrix has no row for {spec.name}", HINT)
        if row.shape != spec.shape[-1:]:
            raise InputError(
                f"the importance matrix has {row.size} channels for {spec.name}, "
                f"which has {spec.shape[-1]}",
                HINT,
            )
        mean = float(row.mean(dtype=np.float64))
        if not np.isfinite(mean) or row.min() < 0 or mean == 0:
            raise InputError(f"the importance matrix has an impossible row for {spec.name}", HINT)
        counts: NDArray[np.float32] = np.maximum(row / np.float32(mean), np.float32(LEAST_SHARE))
        return counts

    def check(self, shape: ModelShape) -> None:
        """Raise InputError unless every matrix that needs a row has a possible one."""
        for spec in matrices(shape):
            self.of(spec)


def matrices(shape: ModelShape) -> Iterator[TensorSpec]:
    """Yield every matrix that multiplies activations. An embedding does only if it is tied."""
    yield from (spec for spec in shape.tensors() if is_weighed(spec, shape))


def is_weighed(spec: TensorSpec, shape: ModelShape) -> bool:
    """Return whether activations are multiplied by the tensor; see `matrices`."""
    looked_up = spec.role is Role.EMBEDDING and not shape.tied_embeddings
    return len(spec.shape) == 2 and not looked_up


def collect(
    checkpoint: Checkpoint,
    shape: ModelShape,
    windows: Sequence[Sequence[int]],
    source: str,
    progress: Progress,
) -> Importance:
    """Run the checkpoint in float32 torch over `windows` of token ids, and average.

    Each window is read from an empty context. Raises InputError if the checkpoint cannot be
    loaded or there is nothing to read.
    """
    import torch

    tokens = sum(len(window) for window in windows)
    if not tokens:
        raise InputError("the calibration text is empty", hint="give a longer text")
    model = load_model(checkpoint)
    with (
        _listening(model, shape) as sums,
        torch.inference_mode(),
        progress.task("measuring activations", tokens, unit="tokens") as advance,
    ):
        for window in windows:
            # The head's inputs are known without its products, a fifth of a small model's work.
            model(torch.tensor([list(window)]), use_cache=False, logits_to_keep=1)
            advance(len(window))
    channels = {name: (sums[name] / tokens).numpy().astype(np.float32) for name in sums}
    return Importance(channels, tokens, source)


@contextmanager
def _listening(model: Any, shape: ModelShape) -> Iterator[dict[str, torch.Tensor]]:
    """Sum the squared inputs of every matrix, float64 [columns], while the block runs."""
    import torch

    sums: dict[str, torch.Tensor] = {}
    hooks = []
    for spec in matrices(shape):
        sums[spec.name] = total = torch.zeros(spec.shape[-1], dtype=torch.float64)
        hooks.append(_listen(model, spec, total))
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _listen(model: Any, spec: TensorSpec, total: torch.Tensor) -> Any:
    """Add the squares of what a matrix is multiplied with to `total`; return the hook."""
    import torch

    def add(values: torch.Tensor) -> None:
        total.add_(values.flatten(0, -2).to(torch.float64).square().sum(0))

    if spec.role in (Role.EMBEDDING, Role.OUTPUT):  # the head, tied or not
        norm = model.get_submodule(str(Role.OUTPUT_NORM))
        return norm.register_forward_hook(lambda _module, _inputs, output: add(output))
    module = model.get_submodule(spec.name.removesuffix(".weight"))
    return module.register_forward_pre_hook(lambda _module, inputs: add(inputs[0]))
