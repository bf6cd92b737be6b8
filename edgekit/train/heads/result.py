"""Writes a trained model with a head as an ordinary checkpoint in the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import write_companions
from converters.lineage import Stage, write_stage
from edgekit.files import staged_folder

SHARD_SIZE = "5GB"


def write_headed(
    source: Checkpoint,
    model: Any,
    out: Path,
    stage: Stage,
    files: Mapping[str, bytes | None],
    replace: bool,
) -> Checkpoint:
    """Write `model`, which was made from `source`, into the folder `out`, whole or not at all.

    Weights are in the source's float type where it has one alone. `stage` is the record of what
    was done, `files` lie beside the weights. Raises InputError if `out` exists and `replace` is
    false, GateError where the disk is too small.
    """
    import torch

    found = {info.dtype for info in source.tensors.values()}
    short = {"F16": torch.float16, "BF16": torch.bfloat16}
    dtype = short.get(next(iter(found)), torch.float32) if len(found) == 1 else torch.float32
    with staged_folder(out, replace=replace) as folder:
        write_companions(source, folder, files)
        # transformers knows which weights of a family are tied, and writes those once
        model.to("cpu", dtype).save_pretrained(
            folder, safe_serialization=True, max_shard_size=SHARD_SIZE
        )
        write_stage(folder, stage)
        Checkpoint.open(folder)
    return Checkpoint.open(out)
