"""GGUF conversions broken on purpose: check names the stage at which each broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.artifact import Artifact

from .breaking import named, reseal, rewrite_gguf, tensor_data

Break = Callable[[Artifact], Artifact]


def metadata(**values: Any) -> Break:
    keys = {key.replace("__", "."): value for key, value in values.items()}
    return lambda artifact: rewrite_gguf(artifact, keys)


def from_list(key: str, change: Callable[[list[Any]], list[Any]]) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        import gguf

        value = gguf.GGUFReader(artifact.entry).get_field(key).contents()
        return rewrite_gguf(artifact, {key: change(value)})

    return apply


def template(text: str | None, *, in_file: bool = True, in_manifest: bool = True) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        if in_file:
            artifact = rewrite_gguf(artifact, {"tokenizer.chat_template": text})
        return reseal(artifact, chat_template=text) if in_manifest else artifact

    return apply


def lost_tie(artifact: Artifact) -> Artifact:
    rng = np.random.default_rng(3)
    shape = tensor_data(artifact, "token_embd.weight").shape[0], 256
    head = rng.normal(0, 0.08, shape).astype(np.float32)
    return rewrite_gguf(artifact, more={"output.weight": head})


OTHER_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
EXPORT: dict[str, Break] = {
    "a pre-tokenizer of another family": metadata(tokenizer__ggml__pre="llama-bpe"),
    "a pre-tokenizer that splits nearly the same": metadata(tokenizer__ggml__pre="gpt-2"),
    "the chat template dropped": template(None),
    "the chat template dropped from the manifest": template(None, in_file=False),
    "another chat template": template(OTHER_TEMPLATE),
    "another chat template in the file alone": template(OTHER_TEMPLATE, in_manifest=False),
    "bos and eos swapped": metadata(
        tokenizer__ggml__bos_token_id=2, tokenizer__ggml__eos_token_id=0
    ),
    "an eos that does not end a turn": metadata(tokenizer__ggml__eos_token_id=1),
    "stop tokens of another model": lambda a: reseal(a, stop_token_ids=[0]),
    "a beginning-of-text token added": metadata(tokenizer__ggml__add_bos_token=True),
    "another rope theta": metadata(llama__rope__freq_base=500000.0),
    "another norm epsilon": metadata(llama__attention__layer_norm_rms_epsilon=1e-5),
    "the tokens shifted by one": from_list("tokenizer.ggml.tokens", lambda v: [*v[1:], v[0]]),
    "two merges exchanged": from_list("tokenizer.ggml.merges", lambda v: [v[1], v[0], *v[2:]]),
    "special tokens that are plain": from_list(
        "tokenizer.ggml.token_type", lambda v: [1 if kind == 3 else kind for kind in v]
    ),
    "a layer count from before pruning": metadata(llama__block_count=3),
    "a layer count from after pruning": metadata(llama__block_count=1),
    "per-layer heads from before pruning": metadata(llama__attention__head_count_kv=[2]),
    "another number of key-value heads": metadata(llama__attention__head_count_kv=4),
    "the output head untied": lost_tie,
    "a tensor left out": lambda a: rewrite_gguf(a, drop=("blk.1.ffn_up.weight",)),
}


@pytest.mark.parametrize("fault", EXPORT)
def test_a_broken_export_is_named(fault: str, fresh: Any, judge: Any) -> None:
    artifact, checkpoint = fresh("gguf", "q8_0")
    assert named(judge(EXPORT[fault](artifact), checkpoint).stages) == "exported"


def taken_from(other: str) -> Callable[[Artifact], Callable[[Any], Any]]:
    return lambda artifact: lambda _data: tensor_data(artifact, other)


def on(name: str, change: Callable[[Any], Any]) -> Break:
    return lambda artifact: rewrite_gguf(artifact, tensors={name: change})


def swapped(one: str, other: str) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        first, second = tensor_data(artifact, one), tensor_data(artifact, other)
        return rewrite_gguf(artifact, tensors={one: lambda _: second, other: lambda _: first})

    return apply


def copied(target: str, origin: str) -> Break:
    def apply(artifact: Artifact) -> Artifact:
        data = tensor_data(artifact, origin)
        return rewrite_gguf(artifact, tensors={target: lambda _: data})

    return apply


def not_permuted(data: NDArray[Any]) -> NDArray[Any]:
    """Put the rows of each head of 64 back as transformers has them."""
    heads = data.reshape(-1, 32, 2, data.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(data.shape)


def scales_rolled(block_bytes: int, first: int, size: int) -> Callable[[Any], Any]:
    """Move the bytes `first` to `first + size` of every block of a tensor to the next block."""

    def apply(data: NDArray[Any]) -> NDArray[Any]:
        blocks = data.reshape(-1, block_bytes).copy()
        part = slice(first, first + size)
        blocks[:, part] = np.roll(blocks[:, part], 1, axis=0)
        return blocks.reshape(data.shape)

    return apply


def one_not_a_number(data: NDArray[Any]) -> NDArray[Any]:
    blocks = data.reshape(-1, 34).copy()
    blocks[5, :2] = np.array([np.nan], np.float16).view(np.uint8)
    return blocks.reshape(data.shape)


WEIGHTS: dict[str, tuple[str, Break]] = {
    "query rows not permuted": ("q8_0", on("blk.0.attn_q.weight", not_permuted)),
    "key rows not permuted, 4 bits": ("q4_k_m", on("blk.1.attn_k.weight", not_permuted)),
    "gate and up swapped": ("q8_0", swapped("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")),
    "gate and up swapped, 4 bits": (
        "iq4_nl",
        swapped("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"),
    ),
    "a tensor of another layer": ("q4_k_m", copied("blk.1.attn_q.weight", "blk.0.attn_q.weight")),
    "a norm of another layer": ("q8_0", copied("blk.1.attn_norm.weight", "blk.0.attn_norm.weight")),
    "norm gains lost": ("q8_0", on("blk.0.ffn_norm.weight", np.ones_like)),
    "the last norm's gains lost": ("q4_k_m", on("output_norm.weight", np.ones_like)),
    "the embedding shifted by one row": (
        "q8_0",
        on("token_embd.weight", lambda d: np.roll(d, 1, axis=0)),
    ),
    "scales off by one block": ("q8_0", on("blk.0.attn_v.weight", scales_rolled(34, 0, 2))),
    "scales off by one block, 4 bits": (
        "iq4_nl",
        on("blk.0.ffn_up.weight", scales_rolled(18, 0, 2)),
    ),
    "scales of a K-quant off by one": (
        "q4_k_m",
        on("blk.0.ffn_up.weight", scales_rolled(144, 4, 12)),
    ),
    "one scale that is not a number": ("q8_0", on("blk.0.attn_output.weight", one_not_a_number)),
    "the rows of a float32 matrix reversed": (
        "f32",
        on("blk.1.ffn_down.weight", lambda d: np.ascontiguousarray(d[::-1])),
    ),
    "one row of a float32 matrix lost": (
        "f32",
        on("blk.1.ffn_up.weight", lambda d: np.concatenate([d[:-1], 0 * d[-1:]])),
    ),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_broken_weights_are_named(fault: str, fresh: Any, judge: Any) -> None:
    scheme, apply = WEIGHTS[fault]
    artifact, checkpoint = fresh("gguf", scheme)
    assert named(judge(apply(artifact), checkpoint).stages) == "quantised"
