"""The importance matrix: against torch by hand, and on disk against an independent reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.importance import Importance, collect, matrices
from converters.importance_file import load_importance, save_importance
from edgekit.errors import InputError
from edgekit.progress import NoProgress

WINDOWS = [[5, 9, 300, 17, 42, 8, 77, 120], [3, 3, 250, 11]]


def collected(checkpoint: Checkpoint) -> Importance:
    return collect(checkpoint, describe(checkpoint), WINDOWS, "a test", NoProgress())


@pytest.mark.parametrize("tied", [True, False])
def test_the_mean_squared_input_of_every_matrix(
    tmp_path: Path, make_checkpoint: Callable[..., Path], tied: bool
) -> None:
    import torch
    import transformers

    folder = make_checkpoint("llama", tie_word_embeddings=tied)
    checkpoint = Checkpoint.open(folder)
    importance = collected(checkpoint)
    shape = describe(checkpoint)
    importance.check(shape)
    assert importance.tokens == 12
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert head in importance.channels
    assert len(importance.channels) == 1 + 7 * 2
    # By hand: the hidden states that transformers itself returns.
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    squares = torch.zeros(shape.hidden, dtype=torch.float64)
    first = torch.zeros(shape.hidden, dtype=torch.float64)
    with torch.inference_mode():
        for window in WINDOWS:
            states = model(torch.tensor([window]), output_hidden_states=True).hidden_states
            squares += states[-1][0].double().square().sum(0)  # after the last norm
            normed = model.model.layers[0].input_layernorm(states[0])
            first += normed[0].double().square().sum(0)
    np.testing.assert_allclose(importance.channels[head], squares.numpy() / 12, rtol=1e-5)
    query = importance.channels["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_allclose(query, first.numpy() / 12, rtol=1e-5)


def test_the_file_comes_back_and_is_llama_cpps(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    import gguf

    checkpoint = Checkpoint.open(make_checkpoint())
    shape = describe(checkpoint)
    importance = collected(checkpoint)
    path = tmp_path / "importance.gguf"
    save_importance(importance, shape, path)
    again = load_importance(path, shape)
    assert (again.tokens, again.source) == (12, "a test")
    for spec in matrices(shape):
        np.testing.assert_allclose(again.of(spec), importance.of(spec), rtol=1e-6)
    reader = gguf.GGUFReader(path)  # an independent reader
    assert reader.fields["general.type"].contents() == "imatrix"
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert tensors["blk.1.ffn_down.weight.counts"].tolist() == [[12.0]]
    sums = tensors["blk.1.ffn_down.weight.in_sum2"]
    down = importance.channels["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_allclose(sums[0], 12 * down, rtol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    shape = describe(checkpoint)
    good = collected(checkpoint)
    name = "model.layers.1.mlp.up_proj.weight"
    cases = {
        "no row for": {k: v for k, v in good.channels.items() if k != name},
        "has 9 channels": {**good.channels, name: np.ones(9, np.float32)},
        "impossible": {**good.channels, name: -good.channels[name]},
    }
    for words, channels in cases.items():
        with pytest.raises(InputError, match=words):
            Importance(channels, 12, "bad").check(shape)
    with pytest.raises(InputError, match="impossible"):
        Importance({**good.channels, name: good.channels[name] * np.nan}, 12, "").check(shape)
    other = describe(Checkpoint.open(make_checkpoint("llama", intermediate_size=768)))
    path = tmp_path / "importance.gguf"
    save_importance(good, shape, path)
    with pytest.raises(InputError, match=r"512 channels for .*down_proj.*768"):
        load_importance(path, other)
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(InputError):
        load_importance(path, shape)


def test_a_channel_that_was_never_used_still_counts() -> None:
    from converters.architectures import Role, TensorSpec

    spec = TensorSpec(Role.UP, 0, "weight", (4, 3))
    counts = Importance({spec.name: np.array([0, 1, 5], np.float32)}, 1, "").of(spec)
    assert counts.min() > 0
    assert counts[2] / counts[1] == pytest.approx(5)
