"""Architectures: from a checkpoint's configuration to a typed shape and the tensors it implies.

One file for each family, imported on demand. To add one: write `<family>.py` with
`describe(settings) -> ModelShape`, add its class to `FAMILIES`, and give the family its line in
`ARCHITECTURES` of `converters/gguf_metadata.py`.
"""

from __future__ import annotations

import importlib
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from converters.architectures.settings import Settings
from converters.architectures.shape import ModelShape, Role, RopeScaling, TensorSpec
from edgekit.errors import InputError

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

__all__ = ["FAMILIES", "ModelShape", "Role", "RopeScaling", "TensorSpec", "describe"]

# The class that config.json names, and the module of this folder that describes it.
FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# Buffers that old checkpoints carry; the engines compute them.
IGNORED_TENSORS = re.compile(r".*\.rotary_emb\.inv_freq")


def describe(checkpoint: Checkpoint) -> ModelShape:
    """Return the shape of `checkpoint`, its tensors checked by name and shape.

    Raises InputError for an unknown architecture, a setting that is missing, impossible or not
    supported, and for a tensor that is missing, unknown or of another shape than the
    configuration says. No tensor data is read.
    """
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise _unknown(checkpoint.architecture)
    module = importlib.import_module(f"{__name__}.{family}")
    settings = Settings(checkpoint.config, str(checkpoint.path / "config.json"))
    shape: ModelShape = module.describe(settings)
    _check_tensors(checkpoint, shape)
    return shape


def _unknown(architecture: str) -> InputError:
    near = get_close_matches(architecture, FAMILIES, n=1)
    return InputError(
        f"architecture {architecture!r:.80} is not supported",
        hint=(f"did you mean {near[0]}? " if near else "") + f"supported: {', '.join(FAMILIES)}",
    )


def _check_tensors(checkpoint: Checkpoint, shape: ModelShape) -> None:
    # a hostile layer count would otherwise make millions of names before the first is missed
    if shape.layers > len(checkpoint.tensors):
        raise InputError(
            f"{checkpoint.path}: the configuration says {shape.layers} layers, "
            f"the weights hold {len(checkpoint.tensors)} tensors in all"
        )
    known = set()
    for spec in shape.tensors():
        known.add(spec.name)
        found = checkpoint.info(spec.name).shape
        if found != spec.shape:
            raise InputError(
                f"{checkpoint.path}: tensor {spec.name} has shape {list(found)}, "
                f"the configuration says {list(spec.shape)}"
            )
    if shape.tied_embeddings:
        known.add(f"{Role.OUTPUT}.weight")  # some trainers save the tied copy too
    for name in sorted(checkpoint.tensors.keys() - known):
        if not IGNORED_TENSORS.fullmatch(name):
            raise InputError(
                f"{checkpoint.path}: tensor {name} is not part of {checkpoint.architecture}",
                hint="an adapter must be merged into the weights first",
            )
