"""Writes a trained model as an ordinary checkpoint beside the one it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import NewTensor, copied, write_checkpoint
from converters.lineage import Stage
from edgekit.progress import Progress

if TYPE_CHECKING:
    import torch


def round_weights(model: Any, source: Checkpoint) -> None:
    """Round the weights of `model` to the one float type of `source`, if it is a shorter one.

    What is judged is then what is written, and no file grows by training.
    """
    import torch

    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    found = {info.dtype for info in source.tensors.values()}
    dtype = dtypes.get(found.pop()) if len(found) == 1 else None
    if dtype is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(dtype))


def write_result(
    source: Checkpoint,
    model: Any,
    out: Path,
    stage: Stage,
    files: Mapping[str, bytes | None],
    progress: Progress,
    replace: bool,
) -> Checkpoint:
    """Write the weights of `model`, which was loaded from `source`, into the folder `out`.

    `stage` is the record of what was done, `files` lie beside the weights. Raises InputError if
    `out` exists and `replace` is false, GateError where the disk is too small.
    """
    values = model.state_dict()
    tensors = {
        name: _new(values[name]) if name in values else copied(source, name)
        for name in source.tensors
    }
    return write_checkpoint(
        source, out, tensors, config=source.config, stage=stage, files=files, progress=progress,
        replace=replace,
    )  # fmt: skip


def _new(value: torch.Tensor) -> NewTensor:
    def slabs() -> Iterator[NDArray[np.float32]]:
        array: NDArray[np.float32] = value.detach().float().cpu().numpy()
        yield array.reshape(-1)

    return NewTensor(tuple(value.shape), slabs)
