"""The importance matrix: against torch by hand, and on disk against an independent reader."""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from converters import llama_graph
from converters.architectures import describe
from converters.calibrate import OWN_TEXT
from converters.checkpoint import Checkpoint
from converters.export_gguf import prepare_gguf, write_gguf
from converters.gguf_plan import gguf_name
from converters.importance import Importance, collect, matrices
from converters.importance_file import load_importance, save_importance
from converters.importance_legacy import read_legacy
from converters.importance_llama import collect_from_checkpoint, collect_from_gguf
from converters.recipe import Recipe
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.workflows.inspect import inspect

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


@pytest.fixture
def legacy_file(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> Path:
    """Write the format that llama.cpp had before GGUF, as its source describes it."""
    importance = collected(Checkpoint.open(make_checkpoint()))
    shape = describe(Checkpoint.open(make_checkpoint()))
    path = tmp_path / "importance.dat"
    with path.open("wb") as stream:
        specs = list(matrices(shape))
        stream.write(struct.pack("<i", len(specs)))
        for spec in specs:
            name, row = gguf_name(spec).encode(), importance.channels[spec.name]
            stream.write(struct.pack("<i", len(name)) + name + struct.pack("<ii", 3, row.size))
            stream.write((3 * row).astype("<f4").tobytes())
        stream.write(struct.pack("<ii", 3, 8) + b"wiki.txt")
    return path


def test_the_old_format_is_read(legacy_file: Path, make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    shape, expected = describe(checkpoint), collected(checkpoint)
    found = load_importance(legacy_file, shape)
    assert (found.tokens, found.source) == (3 * 512, "wiki.txt")
    for spec in matrices(shape):
        row = expected.channels[spec.name]
        np.testing.assert_allclose(found.channels[spec.name], row, rtol=1e-5)
    facts = inspect(legacy_file, False, NoProgress())
    assert (facts["kind"], facts["tokens"]) == ("importance", 3 * 512)
    assert facts["rows"]["blk.1.ffn_down.weight"] == 512
    whole = legacy_file.read_bytes()
    legacy_file.write_bytes(whole[:-16])  # the oldest files have neither chunks nor a name
    assert load_importance(legacy_file, shape).source == "importance.dat"


def test_a_damaged_file_of_the_old_format_is_refused(legacy_file: Path) -> None:
    whole = legacy_file.read_bytes()
    for length in (0, 3, 4, 7, 9, 30, 1000, len(whole) - 17, len(whole) - 15, len(whole) - 1):
        legacy_file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            read_legacy(legacy_file)
    first_row = 4 + 4 + struct.unpack_from("<i", whole, 4)[0]  # its calls, then its length
    for position in (0, 4, first_row, first_row + 4, len(whole) - 12):
        for lie in (-1, -(2**31), 2**31 - 1):
            changed = bytearray(whole)
            struct.pack_into("<i", changed, position, lie)
            legacy_file.write_bytes(changed)
            if (position, lie) != (first_row, 2**31 - 1):  # that many calls are possible
                with pytest.raises(InputError, match="damaged"):
                    read_legacy(legacy_file)
    legacy_file.write_bytes(whole + b"more")
    with pytest.raises(InputError, match="4 bytes follow"):
        read_legacy(legacy_file)


CASES = [("llama", True), ("llama", False), ("mistral", True), ("qwen2", True), ("qwen3", False)]


@pytest.mark.parametrize(("architecture", "tied"), CASES)
def test_llama_cpp_measures_the_same(
    make_checkpoint: Callable[..., Path], architecture: str, tied: bool
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(architecture, tie_word_embeddings=tied))
    expected = collected(checkpoint)
    found = collect_from_checkpoint(
        checkpoint, describe(checkpoint), WINDOWS, "a test", NoProgress()
    )
    assert found.tokens == expected.tokens
    assert found.channels.keys() == expected.channels.keys()
    for name, row in expected.channels.items():
        np.testing.assert_allclose(found.channels[name], row, rtol=0.01, err_msg=name)


def test_llama_cpp_says_what_it_did_not_multiply(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    export = prepare_gguf(checkpoint, describe(checkpoint), Recipe.of("gguf", "f32"))
    write_gguf(export, tmp_path, NoProgress())
    larger = describe(Checkpoint.open(make_checkpoint("llama", num_hidden_layers=3)))
    arguments = (tmp_path / "model.gguf", larger)
    with pytest.raises(InputError, match=r"blk\.2\..* at 0 of 12 positions"):
        collect_from_gguf(*arguments, WINDOWS, "a test", NoProgress())
    with pytest.raises(InputError, match="token 70000 is not among"):
        collect_from_gguf(*arguments, [[1, 70000]], "a test", NoProgress())
    with pytest.raises(InputError, match="empty"):
        collect_from_gguf(*arguments, [], "a test", NoProgress())
    wider = describe(Checkpoint.open(make_checkpoint("llama", intermediate_size=768)))
    with pytest.raises(InputError, match="512 columns"):
        collect_from_gguf(arguments[0], wider, WINDOWS, "a test", NoProgress())


def test_another_library_is_not_believed(
    tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint())
    export = prepare_gguf(checkpoint, describe(checkpoint), Recipe.of("gguf", "f32"))
    write_gguf(export, tmp_path, NoProgress())
    arguments = (tmp_path / "model.gguf", describe(checkpoint), WINDOWS, "a test", NoProgress())
    larger = [*llama_graph._Tensor._fields_, ("new", ctypes.c_int64)]
    changed = type("_Tensor", (ctypes.Structure,), {"_fields_": larger})
    for name, value in (("_Tensor", changed), ("library_path", lambda: Path("/dev/null"))):
        with monkeypatch.context() as patch:
            patch.setattr(llama_graph, name, value)
            llama_graph._library.cache_clear()
            llama_graph._product_operation.cache_clear()
            with pytest.raises(InputError, match="cannot measure activations here"):
                collect_from_gguf(*arguments)
    llama_graph._library.cache_clear()


@pytest.mark.parametrize("engine", ["torch", "llama.cpp"])
def test_the_command(tmp_path: Path, make_checkpoint: Callable[..., Path], engine: str) -> None:
    from edgekit.cli.calibrate import calibrate

    folder, out = str(make_checkpoint()), tmp_path / "importance.gguf"
    options = ["--engine", engine, "--tokens", "768", "-o", str(out)]
    for _ in range(2):  # made, then from the cache
        done = CliRunner().invoke(calibrate, [folder, *options, "--json"], catch_exceptions=False)
        found = json.loads(done.stdout)
        assert found.pop("seconds") > 0
        assert sum(found.pop("kinds").values()) == 768
        assert found == {
            "importance": str(out), "source": OWN_TEXT, "tokens": 768,
            "matrices": 15, "engine": engine,
        }  # fmt: skip
    facts = inspect(out, False, NoProgress())
    assert (facts["kind"], facts["source"], facts["tokens"]) == ("importance", OWN_TEXT, 768)
    assert len(facts["rows"]) == 15
    shown = CliRunner().invoke(calibrate, [folder, *options], catch_exceptions=False).stdout
    assert f"15, by {engine}" in shown
    assert str(out) in shown


def test_a_channel_that_was_never_used_still_counts() -> None:
    from converters.architectures import Role, TensorSpec

    spec = TensorSpec(Role.UP, 0, "weight", (4, 3))
    counts = Importance({spec.name: np.array([0, 1, 5], np.float32)}, 1, "").of(spec)
    assert counts.min() > 0
    assert counts[2] / counts[1] == pytest.approx(5)
