"""Rebuilding tokenizer files: what is kept, what is refused. Parity is in tests/token_parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.gguf_tokenizer import tokenizer_files
from converters.gguf_vocabulary import pre_tokenizer_name
from edgekit.errors import InputError
from edgekit.gguf_header import GgufHeader

TOKENS = ["<end>", "<user>", "<?>", "a", "b", "ab", "Ġ", "Ġa", "[PAD8]"]
MERGES = ["a b", "Ġ a"]


def header(**changes: Any) -> GgufHeader:
    """Return a header with a small vocabulary; `changes` replace or (None) remove its keys."""
    keys: dict[str, Any] = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": TOKENS,
        "token_type": [3, 4, 2, 1, 1, 1, 1, 1, 5],
        "merges": MERGES,
        "eos_token_id": 0,
    }
    metadata = {
        f"tokenizer.ggml.{key}": value
        for key, value in (keys | changes).items()
        if value is not None
    }
    metadata |= {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "tokenizer.chat_template": "{{ messages }}",
    }
    return GgufHeader(Path("m.gguf"), 3, 32, metadata, [], 0)


def test_files_of_a_vocabulary() -> None:
    files = tokenizer_files(header(bos_token_id=2, padding_token_id=0))
    tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
    assert tokenizer["model"]["vocab"] == {token: i for i, token in enumerate(TOKENS)}
    assert tokenizer["model"]["merges"] == [["a", "b"], ["Ġ", "a"]]
    added = {t["content"]: t["special"] for t in tokenizer["added_tokens"]}
    assert added == {"<end>": True, "<user>": False, "<?>": True}
    assert tokenizer["post_processor"] is None
    assert config["chat_template"] == "{{ messages }}"
    assert config["model_max_length"] == 2048
    assert files["special_tokens_map.json"] == {
        "bos_token": "<?>", "eos_token": "<end>", "pad_token": "<end>",
    }  # fmt: skip
    assert config.items() >= files["special_tokens_map.json"].items()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pre": "smollm", "bos_token_id": 1}, [3]),
        ({"pre": "llama-bpe", "bos_token_id": 1}, [1, 3]),
        ({"pre": "llama-bpe", "add_bos_token": False}, [3]),
        ({"pre": "qwen2", "add_bos_token": True, "bos_token_id": 2}, [2, 3]),
        ({"pre": "smollm", "add_eos_token": True}, [3, 0]),
    ],
)
def test_special_tokens_are_added_as_the_file_says(
    changes: dict[str, Any], expected: list[int]
) -> None:

    from tokenizers import Tokenizer

    document = tokenizer_files(header(**changes))["tokenizer.json"]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    assert tokenizer.encode("a").ids == expected
    assert tokenizer.encode("a", add_special_tokens=False).ids == [3]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("smollm", "smollm"),
        ("starcoder", "smollm"),
        ("refact", "smollm"),
        ("gpt-2", "gpt-2"),
        ("llama-bpe", "llama-bpe"),
        ("llama3", "llama-bpe"),
        ("llama-v3", "llama-bpe"),
        ("falcon3", "llama-bpe"),
        ("qwen2", "qwen2"),
        ("deepseek-r1-qwen", "qwen2"),
    ],
)
def test_the_exporter_recognises_what_the_importer_writes(name: str, known: str) -> None:
    document = tokenizer_files(header(pre=name, bos_token_id=1))["tokenizer.json"]
    assert pre_tokenizer_name(document, "tokenizer.json") == known


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": "llama"}, "the kind 'llama'"),
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"pre": "default"}, "the pre-tokenizer 'default'"),
        ({"pre": "tekken"}, "the pre-tokenizer 'tekken'"),
        ({"pre": None}, "the pre-tokenizer ''"),
        ({"tokens": ["", *TOKENS[1:]]}, "the token 0 is empty"),
        ({"token_type": None}, "token_type is missing"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["a b", "a c"]}, "merge 1, 'a c', needs the token 'c'"),
        ({"merges": ["b a"]}, "needs the token 'ba'"),
        ({"merges": ["ab"]}, "needs the token ''"),
        ({"merges": ["a b c"]}, "needs the token 'b c'"),
        ({"add_eos_token": True, "eos_token_id": None}, "adds eos_token to every text"),
        ({"pre": "llama-bpe"}, "adds bos_token to every text and names none"),
    ],
)
def test_refuses(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        tokenizer_files(header(**changes))
    assert part in caught.value.message
    assert "m.gguf" in caught.value.message
