"""Where a text begins and ends: four files, one answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.special_tokens import SpecialTokens, special_tokens, token_ids
from edgekit.errors import InputError


def read(tiny: Path, folder: Path, **files: dict[str, Any] | None) -> SpecialTokens:
    """Return the special tokens of a copy of `tiny` with keys of JSON files changed."""
    shutil.copytree(tiny, folder / "copy")
    for stem, changes in files.items():
        path = folder / "copy" / f"{stem}.json"
        if changes is None:
            path.unlink()
            continue
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    checkpoint = Checkpoint.open(folder / "copy")
    return special_tokens(checkpoint, token_ids(checkpoint), 542)


def test_all_ids_that_end_an_answer_are_stop_tokens(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = read(tiny_checkpoint, tmp_path, generation_config={"eos_token_id": [0, 2]})
    assert (found.eos, found.stop) == (2, (2, 0))  # the tokenizer's own comes first
    assert (found.bos, found.pad) == (0, 0)


def test_the_configuration_decides_where_the_tokenizer_is_silent(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    found = read(tiny_checkpoint, tmp_path, tokenizer_config=None, generation_config=None)
    assert (found.bos, found.eos, found.stop, found.pad) == (0, 2, (2,), None)


def test_the_template_says_whether_a_text_gets_a_beginning(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {"id": "A"}}],
    }
    found = read(
        tiny_checkpoint,
        tmp_path,
        tokenizer={"post_processor": {"type": "Sequence", "processors": [template]}},
        tokenizer_config={"add_bos_token": None},
    )
    assert (found.add_bos, found.add_eos) == (True, False)


def test_the_tokenizers_own_flag_wins(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert read(tiny_checkpoint, tmp_path, tokenizer_config={"add_bos_token": True}).add_bos


def test_a_checkpoint_that_never_stops_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no token that ends a text"):
        read(
            tiny_checkpoint,
            tmp_path,
            tokenizer_config={"eos_token": None},
            generation_config={"eos_token_id": None},
            config={"eos_token_id": None},
        )


@pytest.mark.parametrize("eos", [542, -1, "2", [2, None], True])
def test_an_impossible_id_is_refused(eos: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"special token|not a token id"):
        read(tiny_checkpoint, tmp_path, generation_config={"eos_token_id": eos})
