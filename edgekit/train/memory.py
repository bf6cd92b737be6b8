"""Training in less memory: inner values computed again, and weights of 4 bits beside adapters.

It knows torch's layers, and neither losses nor text.
"""

from __future__ import annotations

import logging
from typing import Any

from devices.detect import describe
from edgekit.errors import GateError
from edgekit.extras import need
from edgekit.train.lora import linear_layers

EXTRA = "train"
LEAST_FEATURE = {"x86_64": "avx2", "AMD64": "avx2"}  # bitsandbytes' library is built for it


def checkpoint_gradients(model: Any) -> None:
    """Let each layer of `model` keep its input alone, and compute the rest again when it learns.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. The
    gradients are the same. transformers does it in layers that are said to train; what lies inside
    of them is not, so that no dropout wakes up.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def require_quantisation() -> None:
    """Raise MissingExtraError without bitsandbytes, GateError where its library would die."""
    machine = describe()
    feature = LEAST_FEATURE.get(machine.architecture)
    if feature and machine.features and feature not in machine.features:
        raise GateError(
            f"bitsandbytes needs a processor with {feature}, this is {machine.processor}",
            hint='leave out [adapter] base = "nf4"',
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    need("bitsandbytes", EXTRA)


def quantise_matrices(model: Any, bf16: bool = False) -> None:
    """Put the matrices of `model` but its head into NF4, with scales of 8 bits; on the CPU.

    Dettmers et al. 2023, "QLoRA", arXiv 2305.14314: 4.13 bits a weight. They cannot learn any
    more, but let gradients through to what lies below. `bf16`: multiply in bfloat16.
    """
    for name, layer in linear_layers(model):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _quantised(layer, bf16))


def _quantised(layer: Any, bf16: bool) -> Any:
    """Return a layer that multiplies by the NF4 codes of `layer`'s weights."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    has_bias, dtype = layer.bias is not None, torch.bfloat16 if bf16 else torch.float32
    new = Linear4bit(
        layer.in_features, layer.out_features, has_bias, dtype, True, "nf4", device="meta"
    )
    new.weight = Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4",
        module=new,
    ).to("cpu")  # fmt: skip
    if has_bias:
        new.bias = layer.bias
    # When it is not said to train, it lays its codes out anew on some processors, and loses the
    # way for the gradients.
    new.training = True
    return new
