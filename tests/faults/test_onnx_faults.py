"""ONNX conversions broken on purpose: check names the stage at which each broke."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress

from .breaking import edit_data, edit_graph, edit_json, named, reseal, set_attribute, values_of

pytestmark = pytest.mark.slow  # the GGUF file's faults take the same way

Break = Callable[[Artifact], Artifact]
OTHER_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
QUERY, GATE = "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"


def other_pre_tokenizer(artifact: Artifact) -> Artifact:
    path = artifact.path / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    steps = tokenizer["pre_tokenizer"]["pretokenizers"]
    tokenizer["pre_tokenizer"]["pretokenizers"] = [s for s in steps if s["type"] != "Digits"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return reseal(artifact)


def shifted_vocabulary(artifact: Artifact) -> Artifact:
    path = artifact.path / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {text: (i + 1) % len(ids) for text, i in ids.items()}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return reseal(artifact)


def template(text: str | None, *, manifest: bool = True, file: bool = True) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        if file:
            edit_json(artifact.path / "tokenizer_config.json", chat_template=text)
        return reseal(artifact, chat_template=text) if manifest else reseal(artifact)

    return apply


def other_stops(artifact: Artifact) -> Artifact:
    path = artifact.path / "genai_config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model"]["eos_token_id"], document["model"]["bos_token_id"] = [0], 2
    path.write_text(json.dumps(document), encoding="utf-8")
    return reseal(artifact)


def other_theta(artifact: Artifact) -> Artifact:
    """Fill the tables with the angles of another rotary base: head_dim is 64."""
    count = len(values_of(artifact, "rotary.cosines"))
    angles = np.arange(count)[:, None] * 500000.0 ** (-np.arange(0, 64, 2) / 64)
    artifact = edit_data(artifact, "rotary.cosines", lambda _: np.cos(angles))
    return edit_data(artifact, "rotary.sines", lambda _: np.sin(angles))


EXPORT: dict[str, Break] = {
    "another pre-tokenizer": other_pre_tokenizer,
    "the vocabulary shifted by one": shifted_vocabulary,
    "the chat template dropped": template(None),
    "the chat template dropped from the manifest": template(None, file=False),
    "another chat template": template(OTHER_TEMPLATE),
    "another chat template in the file alone": template(OTHER_TEMPLATE, manifest=False),
    "bos and eos swapped": other_stops,
    "stop tokens of another model": lambda a: reseal(a, stop_token_ids=[0], bos_token_id=2),
    "another rope theta": other_theta,
    "another norm epsilon": lambda a: edit_graph(
        a, set_attribute("SkipSimplifiedLayerNormalization", "epsilon", 1e-5)
    ),
    "another scale of attention": lambda a: edit_graph(
        a, set_attribute("GroupQueryAttention", "scale", 0.25)
    ),
    "a window on attention": lambda a: edit_graph(a, _window),
}


def _window(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.attribute.append(onnx.helper.make_attribute("local_window_size", 8))


@pytest.mark.parametrize("fault", EXPORT)
def test_a_broken_export_is_named(fault: str, fresh: Any, judge: Any) -> None:
    artifact, checkpoint = fresh("onnx", "int8")
    assert named(judge(EXPORT[fault](artifact), checkpoint).stages) == "exported"


def test_a_lost_tie_is_named(converted: Any, judge: Any, tmp_path: Path) -> None:
    """A tied model whose head is stored apart, in its own type, and is another matrix."""
    checkpoint, _ = converted("onnx", "int8")
    recipe = Recipe("apart", "onnx", "int8", per_tensor={"lm_head.weight": "int4"})
    opened = Checkpoint.open(checkpoint)
    artifact = convert(opened, recipe, tmp_path / "artifact", progress=NoProgress())
    assert all(report.ok for report in judge(artifact, checkpoint).stages)
    broken = edit_data(artifact, "lm_head.weight.codes", lambda d: np.roll(d, 7, axis=0))
    assert named(judge(broken, checkpoint).stages) == "exported"


@pytest.mark.parametrize("format_name", ["gguf", "onnx"])
def test_layers_from_before_pruning_are_named(
    format_name: str, fresh: Any, make_checkpoint: Any, judge: Any
) -> None:
    """The artifact of three layers says that it was made from the checkpoint of two."""
    artifact, _ = fresh(format_name, "int8" if format_name == "onnx" else "q8_0",
                        num_hidden_layers=3)  # fmt: skip
    pruned = make_checkpoint("llama")
    manifest = json.loads((artifact.path / "edgekit.json").read_text(encoding="utf-8"))
    source = manifest["source"] | {"checkpoint_digest": Checkpoint.open(pruned).digest()}
    assert named(judge(reseal(artifact, source=source), pruned).stages) == "exported"


def halves(data: NDArray[Any]) -> NDArray[Any]:
    return np.roll(data, len(data) // 2, axis=0)


def interleaved(data: NDArray[Any]) -> NDArray[Any]:
    """Order the query rows as llama.cpp has them, which this graph does not want."""
    changed = data.copy()
    heads = data[:256].reshape(-1, 2, 32, *data.shape[1:])
    changed[:256] = heads.swapaxes(1, 2).reshape(data[:256].shape)
    return changed


def codes_and_scales(name: str, change: Callable[[Any], Any]) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        artifact = edit_data(artifact, f"{name}.codes", change)
        return edit_data(artifact, f"{name}.scales", change)

    return apply


def another_layers(artifact: Artifact) -> Artifact:
    for suffix in ("codes", "scales"):
        origin = values_of(artifact, f"{GATE.replace('.0.', '.1.')}.{suffix}").copy()
        artifact = edit_data(artifact, f"{GATE}.{suffix}", lambda _, origin=origin: origin)
    return artifact


def one_not_a_number(data: NDArray[Any]) -> NDArray[Any]:
    changed = data.copy()
    changed.flat[3] = np.nan
    return changed


def rolled(axis: int) -> Callable[[Any], Any]:
    return lambda data: np.roll(data, 1, axis=axis)


WEIGHTS: dict[str, tuple[str, Break]] = {
    "query rows in the order of llama.cpp": ("int8", codes_and_scales(QUERY, interleaved)),
    "query rows in the order of llama.cpp, 4 bits": ("int4", codes_and_scales(QUERY, interleaved)),
    "gate and up swapped": ("int8", codes_and_scales(GATE, halves)),
    "gate and up swapped, 4 bits": ("int4", codes_and_scales(GATE, halves)),
    "a tensor of another layer": ("int4", another_layers),
    "norm gains lost": (
        "int8",
        lambda a: edit_data(a, "model.layers.1.input_layernorm.weight", np.ones_like),
    ),
    "the embedding shifted by one row": (
        "int8",
        lambda a: edit_data(
            edit_data(a, "model.embed_tokens.weight.rows", rolled(0)),
            "model.embed_tokens.weight.scales",
            rolled(0),
        ),
    ),
    "scales off by one block": ("int8", lambda a: edit_data(a, f"{GATE}.scales", rolled(1))),
    "scales off by one row": ("int4", lambda a: edit_data(a, f"{GATE}.scales", rolled(0))),
    "zero points off by one block": (
        "int4_asymmetric",
        lambda a: edit_data(a, f"{GATE}.zero_points", rolled(1)),
    ),
    "zero points of two neighbours swapped": (
        "int4_asymmetric",
        lambda a: edit_data(a, f"{GATE}.zero_points", lambda d: (d >> 4) | (d << 4)),
    ),
    "one scale that is not a number": (
        "int4",
        lambda a: edit_data(a, f"{QUERY}.scales", one_not_a_number),
    ),
    "one row of a float32 matrix lost": (
        "f32",
        lambda a: edit_data(
            a, "model.layers.1.mlp.down_proj.weight", lambda d: np.concatenate([0 * d[:1], d[1:]])
        ),
    ),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_broken_weights_are_named(fault: str, fresh: Any, judge: Any) -> None:
    scheme, apply = WEIGHTS[fault]
    artifact, checkpoint = fresh("onnx", scheme)
    assert named(judge(apply(artifact), checkpoint).stages) == "quantised"
