"""Torch artifacts broken on purpose: check names the stage at which each broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.artifact import Artifact

from .breaking import edit_json, named, reseal

pytestmark = pytest.mark.slow  # the GGUF file's faults take the same way

Break = Callable[[Artifact], Artifact]


def config(**values: Any) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        edit_json(artifact.path / "config.json", **values)
        return reseal(artifact)

    return apply


def template(artifact: Artifact) -> Artifact:
    edit_json(artifact.path / "tokenizer_config.json", chat_template=None)
    return reseal(artifact, chat_template=None)


def weights(name: str, change: Callable[[Any], Any]) -> Break:
    """Change one array of the weights; its type and shape stay."""

    def apply(artifact: Artifact) -> Artifact:
        from safetensors.torch import load_file, save_file

        tensors = load_file(artifact.entry)
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, artifact.entry, {"format": "pt"})
        return reseal(artifact)

    return apply


UP = "model.layers.0.mlp.up_proj"
FAULTS: dict[str, tuple[str, str, Break]] = {
    "another rope theta": ("int8", "exported", config(rope_theta=500000.0)),
    "another norm epsilon": ("int8", "exported", config(rms_norm_eps=1e-3)),
    "the chat template dropped": ("int8", "exported", template),
    "stop tokens of another model": ("int8", "exported", lambda a: reseal(a, stop_token_ids=[0])),
    "codes of other rows": ("int8", "quantised", weights(f"{UP}.weight", lambda t: t.roll(1, 0))),
    "scales of other rows": ("int8", "quantised", weights(f"{UP}.SCB", lambda t: t.roll(1, 0))),
    "blocks in another order": (
        "nf4",
        "quantised",
        weights(f"{UP}.weight", lambda t: t.roll(32, 0)),
    ),
    "gains lost": ("nf4", "quantised", weights("model.norm.weight", lambda t: t * 0 + 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_is_named(fault: str, fresh: Any, judge: Any) -> None:
    pytest.importorskip("bitsandbytes")
    scheme, stage, apply = FAULTS[fault]
    artifact, checkpoint = fresh("torch", scheme)
    assert named(judge(apply(artifact), checkpoint).stages) == stage


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_what_is_read_back_is_what_bitsandbytes_computes_with(scheme: str, converted: Any) -> None:
    """The matrices that transformers' loaded model has, dequantised by bitsandbytes itself."""
    functional = pytest.importorskip("bitsandbytes").functional
    import torch
    from transformers import AutoModelForCausalLM

    from converters.architectures import describe
    from converters.checkpoint import Checkpoint
    from edgekit.workflows.certify.stored import open_file

    checkpoint, folder = converted("torch", scheme)
    shape = describe(Checkpoint.open(checkpoint))
    file = open_file(Artifact.open(folder), shape)
    model = AutoModelForCausalLM.from_pretrained(folder)
    spec = next(s for s in shape.tensors() if s.name == f"{UP}.weight")
    module = model.model.layers[0].mlp.up_proj
    if scheme == "nf4":
        expected = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    else:
        scales = module.weight.SCB if module.state.SCB is None else module.state.SCB
        expected = module.weight.data.float() * scales[:, None] / 127
    stored = file.tensor(spec)
    assert stored is not None
    found = torch.from_numpy(stored.values)
    np.testing.assert_allclose(found, expected.float(), atol=2e-3)
