"""The calibration text: sampled in batches as one by one, or from a file; the matrix is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters import calibration
from converters.architectures import describe
from converters.calibrate import OWN_TEXT, calibrate
from converters.calibration import file_text, own_text
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.importance import matrices
from converters.recipe import Recipe
from converters.reference import load_model
from edgekit.errors import InputError
from edgekit.gguf_header import read_header
from edgekit.progress import NoProgress


def test_texts_are_continued_together_as_they_are_alone(tiny_checkpoint: Path) -> None:
    import torch

    model = load_model(Checkpoint.open(tiny_checkpoint))
    with torch.no_grad():
        model.model.norm.weight *= 1000  # all chance goes to one token: sampling is greedy
    openings = [[5, 9, 300], [17], [42, 8, 77, 120, 250, 11, 3]]
    found = calibration._continue(model, openings, 24, seed=0)
    for opening, text in zip(openings, found, strict=True):
        alone = model.generate(
            torch.tensor([opening]), max_length=24, do_sample=False, pad_token_id=0
        )
        assert list(text) == alone[0].tolist()


def test_every_kind_is_there_and_comes_again(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    windows = own_text(checkpoint, NoProgress(), tokens=100)
    kinds = [window.kind for window in windows]
    assert list(dict.fromkeys(kinds)) == ["chat", "prose", "code", "languages", "figures"]
    assert kinds.count("chat") == 20
    assert max(len(window.token_ids) for window in windows) <= 100
    assert windows == own_text(checkpoint, NoProgress(), tokens=100)
    assert windows != own_text(checkpoint, NoProgress(), tokens=100, seed=1)
    start, end = 1, 2  # the marks of the chat template: a question is asked as a chat
    assert all({start, end} <= set(window.token_ids) for window in windows[:20])


def test_a_file_becomes_windows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    path = tmp_path / "text.txt"
    path.write_text("<|im_start|>user\nA kettle boils.<|im_end|>\n" * 50, encoding="utf-8")
    windows = file_text(checkpoint, path, tokens=64)
    assert {len(window.token_ids) for window in windows[:-1]} == {64}
    assert windows[0].token_ids[0] == 1
    for bad in (b"", b"\xff\xfe\xff", None):
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
        with pytest.raises(InputError, match=r"text\.txt"):
            file_text(checkpoint, path)


def test_the_matrix_is_kept_and_used(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint("llama", max_position_embeddings=64))
    text, cache = tmp_path / "text.txt", tmp_path / "cache"
    text.write_text("A kettle boils at 100 degrees. " * 30, encoding="utf-8")
    importance = calibrate(checkpoint, text, cache, NoProgress())
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    again = calibrate(checkpoint, text, cache, NoProgress())
    assert file.stat().st_mtime_ns == written
    for spec in matrices(describe(checkpoint)):
        np.testing.assert_allclose(again.of(spec), importance.of(spec), rtol=1e-6)
    file.write_bytes(b"damaged")
    assert calibrate(checkpoint, text, cache, NoProgress()).tokens == importance.tokens
    assert calibrate(checkpoint, None, cache, NoProgress()).source == OWN_TEXT
    assert len(list(cache.iterdir())) == 2
    for format_name, scheme in (("gguf", "q4_0"), ("onnx", "int4")):
        recipe = Recipe.of(format_name, scheme)
        plain = convert(checkpoint, recipe, tmp_path / f"{scheme}-a", progress=NoProgress())
        weighed = convert(
            checkpoint, recipe, tmp_path / f"{scheme}-b", progress=NoProgress(), importance=again
        )
        assert "calibration" not in plain.manifest.source.recipe
        found = weighed.manifest.source.recipe["calibration"]
        assert found == {"text": "text.txt", "tokens": importance.tokens}
        sizes = [max(file.bytes for file in a.manifest.files) for a in (plain, weighed)]
        hashes = [{file.sha256 for file in a.manifest.files} for a in (plain, weighed)]
        assert hashes[0] != hashes[1]
        assert abs(sizes[0] - sizes[1]) < 1000
    header = read_header(tmp_path / "q4_0-b" / "model.gguf")
    assert header.metadata["quantize.imatrix.dataset"] == "text.txt"
