"""Writes adapters kept apart: a folder that PEFT loads beside the model they were trained with.

The format is PEFT's: `adapter_config.json`, and `adapter_model.safetensors` with two matrices a
layer. It knows nothing of how they learnt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import write_companions
from converters.lineage import Stage, write_stage
from edgekit.files import require_space, staged_folder
from edgekit.store import ADAPTER_FILE
from edgekit.tensors_file import save_tensors
from edgekit.train.configuration import AdapterSection

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {"down": "lora_A.weight", "up": "lora_B.weight"}
HEADER_BYTES = 1 << 20


def write_adapter(
    source: Checkpoint,
    adapter: AdapterSection,
    values: Mapping[str, torch.Tensor],
    out: Path,
    stage: Stage,
    files: Mapping[str, bytes | None],
    replace: bool,
) -> None:
    """Write the adapters `values`, named `<layer>.down` and `<layer>.up`, into the folder `out`.

    They were trained beside `source`; `files` lie beside them. Raises InputError if `out` exists
    and `replace` is false, GateError where the disk is too small.
    """
    tensors = {_name(name): value.detach().float().cpu() for name, value in values.items()}
    needed = 4 * sum(prod(tensor.shape) for tensor in tensors.values()) + HEADER_BYTES
    require_space(out.absolute().parent, needed)
    layers = sorted({name.rpartition(".")[0] for name in values})
    config = json.dumps(_config(source, adapter, layers), indent=2) + "\n"
    with staged_folder(out, replace=replace) as folder:
        write_companions(source, folder, files)
        (folder / ADAPTER_FILE).write_text(config, encoding="utf-8")
        save_tensors(folder / WEIGHTS, tensors, {})
        write_stage(folder, stage)


def _name(name: str) -> str:
    layer, _, part = name.rpartition(".")
    return f"{PREFIX}{layer}.{PARTS[part]}"


def _config(source: Checkpoint, adapter: AdapterSection, layers: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(source.path.resolve()),
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": layers,
        "inference_mode": True,
    }
