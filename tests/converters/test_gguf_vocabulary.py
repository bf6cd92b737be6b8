"""The tokens of a GGUF file are those of tokenizer.json: llama.cpp and tokenizers, side by side."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.export_gguf import ENTRY, prepare_gguf, write_gguf
from converters.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNUSED,
    USER_DEFINED,
    PreTokenizer,
    pre_tokenizer_name,
    read_vocabulary,
)
from converters.recipe import Recipe
from edgekit.errors import InputError
from edgekit.progress import NoProgress

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "def add(left, right):\n\treturn left+right  # 12345 67.89\n\n\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. 1 22 333 4444",
    "敏捷的棕色狐狸跳过了懒狗。  いろはにほへと 🙂🏳️‍🌈",
    "I'll say it's THEY'RE we'd   spaces   \r\n tabs\t\tand trailing  ",
    " leading space", "  two", "a", " ", "\n", "x<|im_start|>user\nhello<|im_end|>\n",
]  # fmt: skip
ODD_TEXT = "½ ²₃ Ⅷ \u00a0nbsp\u2003em \u0301accent ΑΒΓαβγ"


def byte_level(known: PreTokenizer) -> dict[str, Any]:
    """Return a trained byte-level tokenizer.json that splits as `known` says."""
    document: dict[str, Any] = json.loads(trained(known))
    return document


@cache
def trained(known: PreTokenizer) -> str:
    """Return `byte_level` as text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    steps: list[Any] = []
    for kind, *value in known.steps:
        if kind == "Digits":
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        elif kind == "Split":
            steps.append(pre_tokenizers.Split(Regex(value[0]), "isolated"))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=value[0]))
    tokenizer = Tokenizer(models.BPE(ignore_merges=bool(known.ignore_merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if "NFC" in known.normalizers:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    return str(tokenizer.to_str())


def sentencepiece(prefix: bool = True) -> dict[str, Any]:
    """Return a tokenizer.json with byte fallback and every possible merge, as Llama 2's has."""
    from tokenizers import Tokenizer, models, normalizers

    words = "".join(f"\u2581{word}" for word in TEXTS[0].split(" ")) + "".join(TEXTS[2:4])
    special = ["<unk>", "<|endoftext|>", "<|im_end|>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces = sorted({*words.replace(" ", "\u2581")})
    for size in (2, 3, 4):
        pieces += sorted({words[i : i + size] for i in range(45)})
    ids = {text: token_id for token_id, text in enumerate(special + pieces)}
    merges = [
        (token[:cut], token[cut:])
        for token in pieces
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    tokenizer = Tokenizer(
        models.BPE(ids, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    steps: list[Any] = [normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), *steps] if prefix else steps
    )
    tokenizer.add_special_tokens(special[:3])
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    return document


@pytest.fixture
def checkpoint_with(tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Return a function that gives a copy of the tiny checkpoint another tokenizer.json."""

    def make(tokenizer: dict[str, Any]) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(tiny_checkpoint, folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        return folder

    return make


def compare_tokens(folder: Path, out: Path, texts: list[str]) -> None:
    """Assert that llama.cpp, with the converted vocabulary, gives the same ids as tokenizers."""
    import llama_cpp
    from tokenizers import Tokenizer

    checkpoint = Checkpoint.open(folder)
    export = prepare_gguf(checkpoint, describe(checkpoint), Recipe.of("gguf", "q8_0"))
    write_gguf(export, out, NoProgress())
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = llama_cpp.Llama(str(out / ENTRY), vocab_only=True, verbose=False)
    for text in texts:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert model.tokenize(text.encode(), add_bos=False, special=True) == expected, text
    model.close()
    assert len(reference.encode(TEXTS[0]).ids) < 0.8 * len(TEXTS[0])  # it does merge


@pytest.mark.parametrize("known", PRE_TOKENIZERS, ids=lambda known: known.name)
def test_llama_cpp_splits_like_the_byte_level_tokenizer(
    known: PreTokenizer, checkpoint_with: Any, tmp_path: Path
) -> None:
    texts = TEXTS if known.name == "tekken" else [*TEXTS, ODD_TEXT]
    compare_tokens(checkpoint_with(byte_level(known)), tmp_path, texts)


@pytest.mark.parametrize("prefix", [True, False])
def test_llama_cpp_joins_like_the_sentencepiece_tokenizer(
    prefix: bool, checkpoint_with: Any, tmp_path: Path
) -> None:
    compare_tokens(checkpoint_with(sentencepiece(prefix)), tmp_path, [*TEXTS, ODD_TEXT])


def test_rows_without_a_token_become_unused_padding(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    rows = describe(checkpoint).vocabulary_size
    vocabulary = read_vocabulary(checkpoint, rows + 2)
    assert vocabulary.tokens[rows:] == [f"[PAD{rows}]", f"[PAD{rows + 1}]"]
    assert vocabulary.types[rows - 1 :] == [NORMAL, UNUSED, UNUSED]
    assert vocabulary.types[:3] == [CONTROL] * 3


def test_a_plain_added_token_is_user_defined(checkpoint_with: Any) -> None:
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    added = tokenizer["added_tokens"][0] | {"content": "plain", "id": 530, "special": False}
    tokenizer["added_tokens"].append(added)
    vocabulary = read_vocabulary(Checkpoint.open(checkpoint_with(tokenizer)), 542)
    assert (vocabulary.tokens[530], vocabulary.types[530]) == ("plain", USER_DEFINED)


def test_bytes_of_a_sentencepiece_vocabulary_have_their_type(checkpoint_with: Any) -> None:
    vocabulary = read_vocabulary(Checkpoint.open(checkpoint_with(sentencepiece())), 542)
    assert vocabulary.model == "llama"
    assert vocabulary.types.count(BYTE) == 256


def test_an_unknown_pre_tokenizer_is_named_and_refused() -> None:
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    with pytest.raises(InputError, match=r"no pre-tokenizer.*Digits") as caught:
        pre_tokenizer_name(tokenizer, "here")
    assert "smollm" in caught.value.hint


def test_the_flag_that_skips_merges_must_fit_the_pre_tokenizer() -> None:
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    tokenizer["model"]["ignore_merges"] = True
    with pytest.raises(InputError, match="ignore_merges True"):
        pre_tokenizer_name(tokenizer, "here")


def broken(change: str) -> dict[str, Any]:
    """Return a tokenizer with one thing wrong."""
    tokenizer = byte_level(PRE_TOKENIZERS[0])
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    match change:
        case "too many tokens":
            model["vocab"]["extra"] = 542
        case "shared id":
            model["vocab"]["extra"] = 7
        case "two ids":
            added[0]["id"] = 99
        case "negative id":
            model["vocab"]["extra"] = -1
        case "text id":
            model["vocab"]["extra"] = "7"
        case "empty token":
            model["vocab"][""] = 530
        case "padding text":
            model["vocab"]["[PAD541]"] = 530
        case "no merges":
            model["merges"] = []
        case "merge of nothing":
            model["merges"].append(["zz", "qq"])
        case "greedy token":
            added[0]["rstrip"] = True
        case "unigram":
            tokenizer["model"] = {"type": "Unigram", "vocab": [["a", -1.0]]}
        case "no model":
            tokenizer["model"] = 3
        case "malformed added token":
            added.append({"content": 3})
        case "suffix":
            model["end_of_word_suffix"] = "</w>"
    return tokenizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("too many tokens", "has token 542, the model's embedding has 542 rows"),
        ("shared id", "share an id"),
        ("two ids", "has the ids 0 and 99"),
        ("negative id", "not a whole number"),
        ("text id", "not a whole number"),
        ("empty token", "an empty or a repeated token"),
        ("padding text", "an empty or a repeated token"),
        ("no merges", "has no merges"),
        ("merge of nothing", "makes no token"),
        ("greedy token", "has rstrip"),
        ("unigram", "the tokenizer is 'Unigram'"),
        ("no model", "the tokenizer is None"),
        ("malformed added token", "an added token is malformed"),
        ("suffix", "has end_of_word_suffix"),
    ],
)
def test_a_broken_tokenizer_is_refused(change: str, message: str, checkpoint_with: Any) -> None:
    checkpoint = Checkpoint.open(checkpoint_with(broken(change)))
    with pytest.raises(InputError, match=message):
        read_vocabulary(checkpoint, 542)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("first merge lost", "but llama.cpp would"),
        ("byte lost", "<0x41> is missing"),
        ("merges apart", "are not together"),
        ("other spaces", "spaces are treated"),
    ],
)
def test_sentencepiece_that_llama_cpp_would_join_otherwise_is_refused(
    change: str, message: str, checkpoint_with: Any
) -> None:
    tokenizer = sentencepiece()
    model = tokenizer["model"]
    made = ["".join(pair).replace(" ", "") for pair in model["merges"]]
    match change:
        case "first merge lost":
            del model["merges"][0]
        case "byte lost":
            model["vocab"]["other"] = model["vocab"].pop("<0x41>")
        case "merges apart":
            twice = next(i for i in range(1, len(made)) if made[i] == made[i - 1])
            model["merges"].append(model["merges"].pop(twice))
        case "other spaces":
            tokenizer["normalizer"]["normalizers"].reverse()
    with pytest.raises(InputError, match=message):
        read_vocabulary(Checkpoint.open(checkpoint_with(tokenizer)), 542)
