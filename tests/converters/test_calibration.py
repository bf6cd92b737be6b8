"""The calibration text: sampled in batches as one by one, or from a file; the matrix is kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from converters import calibrate as calibrate_module
from converters import calibration
from converters.architectures import describe
from converters.calibrate import OWN_TEXT, calibrate, calibration_windows, lesson_windows
from converters.calibration import file_text, own_text
from converters.calibration_openings import read_openings
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.importance import matrices
from converters.recipe import Recipe
from converters.reference import load_model, load_tokenizer
from edgekit.errors import InputError
from edgekit.gguf_header import read_header
from edgekit.progress import NoProgress


@pytest.fixture
def short_windows(make_checkpoint: Callable[..., Path]) -> Checkpoint:
    """Return a checkpoint whose windows have 32 tokens: the time goes by their length."""
    return Checkpoint.open(make_checkpoint("llama", max_position_embeddings=32))


def test_rows_are_written_together_as_each_is_alone(tiny_checkpoint: Path) -> None:
    import torch

    model = load_model(Checkpoint.open(tiny_checkpoint))
    with torch.no_grad():
        model.model.norm.weight *= 1000  # all chance goes to one token: sampling is greedy
    openings = [[5, 9, 300], [17], [42, 8, 77, 120, 250, 11, 3]]
    rows = [calibration._Row("prose", cycle([opening]), set()) for opening in openings]
    calibration._write(model, rows, 24, 0, lambda _: None)
    for opening, row in zip(openings, rows, strict=True):
        alone = model.generate(
            torch.tensor([opening]), max_length=24, do_sample=False, pad_token_id=0, eos_token_id=-1
        )
        assert row.token_ids == alone[0].tolist()


def test_where_the_model_ends_the_next_opening_follows() -> None:
    row = calibration._Row("chat", iter([[1, 5], [2, 7, 8], [9]]), stops={2})
    sampled = [50, 51, 52, 2, 53, 54, 55, 2, 56, 57]
    assert [row.add(token) for token in sampled] == [1, 5, 52, 2, 7, 8, 55, 2, 9, 57]


def test_where_the_model_repeats_itself_the_next_opening_follows() -> None:
    row = calibration._Row("prose", iter([[1], [2, 3], [4]]), stops=set())
    said = [row.add(token) for token in (0, *[7, 8, 9] * 7)]
    looped = [1, *[7, 8, 9] * 6, 7]  # 16 tokens, and again 3 later
    assert said[: len(looped) + 2] == [*looped, 2, 3]
    for shorter in range(calibration.REPEATED_TOKENS):
        row = calibration._Row("prose", iter([[1], [2]]), stops=set())
        once = list(range(10, 10 + shorter))
        assert [row.add(token) for token in (0, *once, 5, *once, 6)] == [1, *once, 5, *once, 6]


def test_unlikely_tokens_are_never_drawn() -> None:
    import torch

    chances = torch.tensor([[0.60, 0.31, 0.06, 0.03], [0.03, 0.06, 0.60, 0.31]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([calibration._sample(chances.log(), generator) for _ in range(4000)])
    for column, expected in ((0, [0, 1, 2]), (1, [2, 3, 1])):
        ids = drawn[:, column].unique()
        assert sorted(ids.tolist()) == sorted(expected)  # 0.03 is less than LEAST_CHANCE of 0.60
        wanted = torch.tensor([0.60, 0.31, 0.06])
        found = torch.tensor([(drawn[:, column] == token).float().mean() for token in expected])
        assert torch.allclose(found, wanted / wanted.sum(), atol=0.03)


def test_windows_are_full_and_every_kind_has_its_share(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    windows = own_text(checkpoint, NoProgress(), tokens=192 * 30)
    assert {len(window.token_ids) for window in windows} == {192}
    shares = Counter(window.kind for window in windows)
    assert sum(shares.values()) == 30
    openings = Counter(opening.kind for opening in read_openings(checkpoint))
    assert list(openings) == ["chat", "prose", "code", "languages", "figures"]
    for kind, count in openings.items():
        assert abs(shares[kind] - 30 * count / openings.total()) <= 1
    start, end = 1, 2  # the marks of the chat template: a question is asked as a chat
    assert all({start, end} <= set(w.token_ids) for w in windows if w.kind == "chat")


def test_the_seed_decides_what_is_written(short_windows: Checkpoint) -> None:
    windows = own_text(short_windows, NoProgress(), tokens=320)
    assert {len(window.token_ids) for window in windows} == {32}
    assert windows == own_text(short_windows, NoProgress(), tokens=320)
    assert windows != own_text(short_windows, NoProgress(), tokens=320, seed=1)


def test_a_chat_is_rendered_turn_by_turn(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    chats = [opening for opening in read_openings(checkpoint) if opening.kind == "chat"]
    decode = load_tokenizer(checkpoint).decode
    first, second = (decode(piece, skip_special_tokens=False) for piece in chats[0].pieces)
    assert first.startswith("<|im_start|>user\nWhat is the difference")
    assert first.endswith("bacterium?<|im_end|>\n<|im_start|>assistant\n")
    assert second.startswith("<|im_end|>\n<|im_start|>user\nWhich of the two")
    assert second.endswith("<|im_start|>assistant\n")
    assert any(decode(c.pieces[0]).startswith("system\nYou are") for c in chats)


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"


@pytest.mark.parametrize("refusing", [True, False])
def test_templates_that_refuse_a_system_message_or_are_absent(
    tmp_path: Path, tiny_checkpoint: Path, refusing: bool
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = settings.pop("chat_template")
    if refusing:
        settings["chat_template"] = REFUSING + template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    checkpoint = Checkpoint.open(folder)
    decode = load_tokenizer(checkpoint).decode
    texts = [decode(o.pieces[0]) for o in read_openings(checkpoint) if o.kind == "chat"]
    question = next(text for text in texts if "open on Saturdays" in text)
    told = "user\nYou are a helpful assistant for a small library."
    assert question.startswith(told if refusing else "When are you open")


@pytest.mark.slow
def test_what_the_model_wrote_is_kept(short_windows: Checkpoint, tmp_path: Path) -> None:
    checkpoint = short_windows
    windows = calibration_windows(checkpoint, None, tmp_path, NoProgress(), tokens=64)
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    assert [len(token_ids) for _, token_ids in kept] == [32, 32]
    kept[0][1][10:] = [7] * 22
    file.write_text(json.dumps(kept))
    again = calibration_windows(checkpoint, None, tmp_path, NoProgress(), tokens=64)
    assert again[0].token_ids[-22:] == (7,) * 22
    for damage in ("[[", "[]", '[["chat", [1.5]]]', '[["chat", 3]]', "3", '[["chat", [999999]]]'):
        file.write_text(damage)
        assert calibration_windows(checkpoint, None, tmp_path, NoProgress(), tokens=64) == windows


@pytest.mark.slow
def test_lessons_go_on_where_the_calibration_text_ends(
    short_windows: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_module, "OWN_TOKENS", 64)
    checkpoint = short_windows
    cache = tmp_path / "cache"
    lessons = lesson_windows(checkpoint, None, cache, 150, NoProgress())
    assert lessons[:2] == calibration_windows(checkpoint, None, cache, NoProgress())
    assert len({lesson.token_ids for lesson in lessons}) == len(lessons) == 6
    assert len(list(cache.iterdir())) == 3
    assert lesson_windows(checkpoint, None, cache, 48, NoProgress()) == lessons[:2]
    text = tmp_path / "text.txt"
    text.write_text("A kettle boils. " * 7)
    assert len(lesson_windows(checkpoint, text, cache, 150, NoProgress())) == 1


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
    own = calibrate(checkpoint, None, cache, NoProgress(), tokens=500)
    assert (own.source, own.tokens) == (OWN_TEXT, 8 * 64)
    assert sorted(file.suffix for file in cache.iterdir()) == [".gguf", ".gguf", ".json"]
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
