"""The reference is what torch says, kept compactly, and found again in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.divergence import compare
from converters.reference import Passage, Window, measure_reference, render_dialogues, targets
from edgekit.errors import InputError
from edgekit.progress import NoProgress

TEXT = "The quick brown fox jumps over the lazy dog, and a kettle boils at 100 degrees. " * 12
PASSAGES = [
    Passage("prose", TEXT),
    Passage("dialogue", "<|im_start|>user\nhello<|im_end|>\n" * 6, special=True),
    Passage("odd", "<|im_start|>", measured=False),
]


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


def torch_logits(checkpoint: Checkpoint, window: Window) -> np.ndarray:
    """Return what transformers computes for all positions of a window but the last."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path)
    with torch.inference_mode():
        return model(torch.tensor([window.token_ids])).logits[0, :-1].numpy()


def test_rows_are_those_of_torch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    reference = measure_reference(checkpoint, PASSAGES, tmp_path, NoProgress())
    first = 0
    for window in reference.windows:
        logits = torch_logits(checkpoint, window)
        rows = reference.rows.part(first, first + len(logits))
        found = compare(rows, logits, targets(window))
        assert np.abs(found.divergence).max() < 1e-5
        assert found.same_top1.all()
        first += len(logits)
    assert first == len(reference.rows)
    assert 0 <= abs(reference.noise_floor) < 1e-7


def test_special_tokens_count_only_where_they_are_meant(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    reference = measure_reference(checkpoint, PASSAGES, tmp_path, NoProgress())
    _, dialogue, odd = reference.passage_ids
    assert dialogue[0] == 1
    assert 1 not in odd
    assert {window.kind for window in reference.windows} == {"prose", "dialogue"}


def test_windows_can_be_limited(checkpoint: Checkpoint, tmp_path: Path) -> None:
    passages = [Passage("prose", TEXT * 5)]
    every = measure_reference(checkpoint, passages, tmp_path, NoProgress())
    one = measure_reference(checkpoint, passages, tmp_path, NoProgress(), windows_per_kind=1)
    assert one.windows == every.windows[:1]
    assert len(every.windows) > 1


def test_the_cache_is_used_and_a_damaged_one_made_again(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure_reference(checkpoint, PASSAGES, tmp_path, NoProgress())
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    again = measure_reference(checkpoint, PASSAGES, tmp_path, NoProgress())
    np.testing.assert_array_equal(again.rows.tail_ids, first.rows.tail_ids)
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:100])
    measure_reference(checkpoint, PASSAGES, tmp_path, NoProgress())
    assert file.stat().st_size > 100


def test_another_checkpoint_has_another_reference(
    checkpoint: Checkpoint, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    measure_reference(checkpoint, PASSAGES, tmp_path, NoProgress())
    other = Checkpoint.open(make_checkpoint("qwen2"))
    measure_reference(other, PASSAGES, tmp_path, NoProgress())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_text_of_one_token_measures_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shorter than two tokens"):
        measure_reference(checkpoint, [Passage("own", "a")], tmp_path, NoProgress())


def test_dialogues_are_rendered_by_the_template(checkpoint: Checkpoint) -> None:
    dialogue = [{"role": "user", "content": "hello"}]
    plain = "<|im_start|>user\nhello<|im_end|>\n"
    assert render_dialogues(checkpoint, [dialogue], prompt=False) == [plain]
    prompt = render_dialogues(checkpoint, [dialogue], prompt=True)
    assert prompt == [plain + "<|im_start|>assistant\n"]
