"""A smaller vocabulary: the same pieces, any text still written, the same logits for what stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.lineage import read_stage
from converters.pruning.bpe import Bpe, rebuilt
from converters.pruning.prune import Texts, prune
from converters.pruning.request import Request
from converters.pruning.vocabulary import retell, select
from edgekit.errors import InputError
from edgekit.progress import NoProgress

ENGLISH = "The quick brown fox jumps over the lazy dog. A kettle boils at 100 degrees.\n" * 3
FOREIGN = "Съешь же ещё 棕色狐狸 ñandú 🦊\u200d\x00\t über <|im_end|> def add(left)"


def with_tokenizer(source: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy a checkpoint, its tokenizer.json changed."""
    shutil.copytree(source, folder)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(document)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.fixture
def english(tmp_path: Path) -> Path:
    file = tmp_path / "english.txt"
    file.write_text(ENGLISH, encoding="utf-8")
    return file


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["tied", "untied"])
def source(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> Checkpoint:
    """Return a checkpoint with ids in every place that knows ids, and rows that no token has."""
    folder = make_checkpoint("llama", tie_word_embeddings=request.param, vocab_size=600)

    def change(document: dict[str, Any]) -> None:
        # special tokens need not be the first ids: this one's will change
        vocabulary = document["model"]["vocab"]
        last = max(vocabulary, key=lambda text: vocabulary[text])
        vocabulary[last], vocabulary["<|im_end|>"] = 2, vocabulary[last]
        content, end = "<|im_end|>", vocabulary["<|im_end|>"]
        document["added_tokens"][2]["id"] = end
        template = {"SpecialToken": {"id": content, "type_id": 0}}
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [template, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {content: {"id": content, "ids": [end], "tokens": [content]}},
        }

    copy = with_tokenizer(folder, tmp_path / "source", change)
    end = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]["<|im_end|>"]
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((copy / name).read_text())
        settings["eos_token_id"] = [end, 0] if name == "generation_config.json" else end
        (copy / name).write_text(json.dumps(settings))
    tokenizer_config = json.loads((copy / "tokenizer_config.json").read_text())
    decoder = {str(end): {"content": "<|im_end|>", "special": True}}
    tokenizer_config["added_tokens_decoder"] = decoder
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (copy / "merges.txt").write_text("stale")
    return Checkpoint.open(copy)


@pytest.fixture
def said(source: Checkpoint) -> Texts:
    """Return texts that are text; the last one begins with half a character."""
    tokenizer = tokenizer_of(source)
    held_out = [tuple(tokenizer.encode(text).ids) for text in (FOREIGN, ENGLISH, "🦊" * 5)]
    held_out[-1] = held_out[-1][3:]
    return Texts(tuple(held_out[:1]), tuple(held_out), "one", "another")


@pytest.fixture
def pruned(
    source: Checkpoint, english: Path, pruned_to: Callable[..., Checkpoint], said: Texts
) -> Checkpoint:
    return pruned_to(source, texts=said, vocabulary=english)


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))


def test_the_vocabulary_is_smaller_and_says_the_same(
    source: Checkpoint, pruned: Checkpoint
) -> None:
    old, new = tokenizer_of(source), tokenizer_of(pruned)
    assert pruned.config["vocab_size"] == new.get_vocab_size() < old.get_vocab_size()
    assert pruned.config["vocab_size"] % 64 == 0
    for text in (ENGLISH, "jumps over the fox", "A lazy kettle. The dog boils"):
        assert new.encode(text).tokens == old.encode(text).tokens
    for text in (FOREIGN, ENGLISH):
        assert new.decode(new.encode(text, add_special_tokens=False).ids, False) == text
    assert len(new.encode(FOREIGN).ids) > len(old.encode(FOREIGN).ids)


def test_every_place_that_knows_ids_knows_the_new_ones(
    source: Checkpoint, pruned: Checkpoint
) -> None:
    from transformers import AutoTokenizer

    new = tokenizer_of(pruned)
    end = new.token_to_id("<|im_end|>")
    assert end != tokenizer_of(source).token_to_id("<|im_end|>")
    assert pruned.config["eos_token_id"] == end
    assert pruned.generation_config["eos_token_id"] == [end, new.token_to_id("<|endoftext|>")]
    assert pruned.config["bos_token_id"] == new.token_to_id("<|endoftext|>")
    assert list(pruned.tokenizer_config["added_tokens_decoder"]) == [str(end)]
    assert not (pruned.path / "merges.txt").exists()
    assert new.encode("fox").ids[0] == end
    loaded = AutoTokenizer.from_pretrained(pruned.path)
    assert loaded.eos_token_id == end
    messages = [{"role": "user", "content": FOREIGN}]
    ids = loaded.apply_chat_template(messages, add_generation_prompt=True)
    text = loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ids == new.encode(text, add_special_tokens=False).ids
    assert ids.count(end) == 2


def test_logits_are_those_of_the_kept_tokens_in_every_engine(
    source: Checkpoint,
    pruned: Checkpoint,
    reload: Callable[[Checkpoint], Any],
    logits: Callable[..., Any],
    assert_same_everywhere: Callable[..., None],
) -> None:
    old, new = tokenizer_of(source), tokenizer_of(pruned)
    kept = [old.token_to_id(new.id_to_token(i)) for i in range(new.get_vocab_size())]
    ids = new.encode("The lazy fox <|im_end|> Съешь über").ids
    expected = logits(reload(source), [kept[i] for i in ids])[:, kept]
    assert_same_everywhere(pruned, expected, ids)


def test_both_engines_cut_text_like_the_new_tokenizer(pruned: Checkpoint, tmp_path: Path) -> None:
    import llama_cpp

    from converters.convert import convert
    from converters.recipe import Recipe

    artifact = convert(pruned, Recipe.of("gguf", "f32"), tmp_path / "g", progress=NoProgress())
    model = llama_cpp.Llama(
        str(artifact.path / artifact.manifest.entry), vocab_only=True, verbose=False
    )
    for text in (ENGLISH, FOREIGN.replace("\x00", "")):
        expected = tokenizer_of(pruned).encode(text, add_special_tokens=False).ids
        assert model.tokenize(text.encode(), add_bos=False, special=True) == expected
    model.close()


def test_the_figures_say_what_was_lost(
    source: Checkpoint, pruned: Checkpoint, reload: Callable[[Checkpoint], Any], said: Texts
) -> None:
    stage = read_stage(pruned)
    assert stage is not None
    assert stage.how["kld_mean"] == pytest.approx(0.0, abs=1e-5)  # over the kept tokens
    assert 0.01 < stage.how["lost_mass"] < 0.9
    (step,) = stage.how["steps"]
    assert step["kept"] == pruned.config["vocab_size"]
    assert step["of"] == 600
    old, new = tokenizer_of(source), tokenizer_of(pruned)
    loss, tokens = 0.0, 0
    for ids in said.held_out[:2]:
        text = old.decode(list(ids), skip_special_tokens=False)
        loss += nll(reload(pruned), new.encode(text, add_special_tokens=False).ids)
        tokens += len(ids) - 1
    assert stage.how["perplexity_after"] == pytest.approx(np.exp(loss / tokens), rel=1e-4)


def nll(model: Any, ids: list[int]) -> float:
    import torch

    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -float(sum(rows[place, target] for place, target in enumerate(ids[1:])))


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_merges_keep_their_order_and_their_parts(
    ignore_merges: bool, tiny_checkpoint: Path, english: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["model"]["ignore_merges"] = ignore_merges

    checkpoint = Checkpoint.open(with_tokenizer(tiny_checkpoint, tmp_path / "copy", change))
    selection = select(checkpoint, english)
    before = [tuple(m) for m in checkpoint.tokenizer["model"]["merges"]]
    after = [tuple(m) for m in selection.document["model"]["merges"]]
    vocabulary = selection.document["model"]["vocab"]
    assert after == [m for m in before if {*m, "".join(m)} <= vocabulary.keys()]
    single = {t for t in checkpoint.tokenizer["model"]["vocab"] if len(t) == 1}
    assert single <= vocabulary.keys()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_bytes_of_a_sentencepiece_vocabulary_stay() -> None:
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for piece in ("▁", "a", "b", "c", "▁a", "ab", "bc", "▁ab", "é"):
        vocabulary[piece] = len(vocabulary)
    merges = ["▁ a", "a b", "b c", "▁a b"]
    tokenizer: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [
            {"id": 0, "content": "<unk>", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}],
        "normalizer": {"type": "Prepend", "prepend": "▁"}, "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True,
                  "vocab": vocabulary, "merges": merges},
    }  # fmt: skip
    checkpoint = Checkpoint(Path("x"), {}, {})
    checkpoint.__dict__["tokenizer"] = tokenizer
    bpe = Bpe.of(checkpoint)
    kept = bpe.closed(["▁ab"])
    assert kept == {"<unk>", *(t for t in vocabulary if t.startswith("<0x")), "▁", "a", "b", "▁a",
                    "▁ab"}  # fmt: skip
    from tokenizers import Tokenizer

    new_ids = {text: place for place, text in enumerate(sorted(kept, key=lambda t: bpe.ids[t]))}
    new = Tokenizer.from_str(json.dumps(rebuilt(tokenizer, new_ids)))
    assert new.encode("ab").tokens == ["▁ab"]
    assert new.encode("é").tokens == ["▁", "<0xC3>", "<0xA9>"]


def test_texts_are_retold_in_kept_tokens(tiny_checkpoint: Path, english: Path) -> None:
    selection = select(Checkpoint.open(tiny_checkpoint), english)
    ids = selection.old.encode("über the fox").ids
    pair = retell(selection, ids)
    assert pair is not None
    assert pair[0] == ids
    assert set(pair[1]) <= set(selection.kept_ids.tolist())
    assert selection.old.decode(pair[1]) == "über the fox"
    half_a_character = selection.old.encode("🦊").ids[:2]
    assert retell(selection, half_a_character) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe broken", "cannot be read"), (b"", "is empty"), (b" \n", "is empty"),
     (None, "cannot be read")],
)  # fmt: skip
def test_a_text_that_cannot_be_used_is_refused(
    content: bytes | None, message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        select(Checkpoint.open(tiny_checkpoint), file)


def test_a_text_that_uses_everything_leaves_nothing_to_remove(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    whole = [tokenizer.decode([i], False) for i in range(tokenizer.get_vocab_size())]
    (tmp_path / "text.txt").write_text("".join(f"{text}\n" for text in whole), encoding="utf-8")
    with pytest.raises(InputError, match="no token to remove"):
        select(checkpoint, tmp_path / "text.txt")


@pytest.mark.parametrize(
    "model",
    [
        {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]]},
        {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"},
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"],
         "end_of_word_suffix": "</w>"},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]},
    ],
    ids=["unigram", "wordpiece", "suffix", "merges"],
)  # fmt: skip
def test_a_tokenizer_that_is_not_plain_bpe_is_refused(
    model: dict[str, Any], tiny_checkpoint: Path, english: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["model"] = model
        document["added_tokens"] = []

    copy = with_tokenizer(tiny_checkpoint, tmp_path / "copy", change)
    with pytest.raises(InputError, match=r"tokenizer"):
        select(Checkpoint.open(copy), english)


def test_tokens_that_are_special_by_name_alone_stay(
    tiny_checkpoint: Path, english: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["added_tokens"] = []
        document["post_processor"] = {"type": "RobertaProcessing", "sep": ["über", 0],
                                      "cls": ["<|im_start|>", 1], "trim_offsets": True,
                                      "add_prefix_space": False}  # fmt: skip
        ids, merges = document["model"]["vocab"], document["model"]["merges"]
        last = max(ids, key=lambda text: ids[text])
        ids["über"] = ids.pop(last)
        document["model"]["merges"] = [merge for merge in merges if "".join(merge) != last]

    copy = with_tokenizer(tiny_checkpoint, tmp_path / "copy", change)
    selection = select(Checkpoint.open(copy), english)
    vocabulary = selection.document["model"]["vocab"]
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "über"} <= vocabulary.keys()
    processor = selection.document["post_processor"]
    assert processor["sep"] == ["über", vocabulary["über"]]
    assert processor["cls"] == ["<|im_start|>", vocabulary["<|im_start|>"]]


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(
    tiny_checkpoint: Path, english: Path, tmp_path: Path, texts: Texts
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["added_tokens"][2]["id"] = document["model"]["vocab"]["<|im_end|>"] = 5000

    checkpoint = Checkpoint.open(with_tokenizer(tiny_checkpoint, tmp_path / "copy", change))
    with pytest.raises(InputError, match="token 5000"):
        select(checkpoint, english)
    beyond = Texts(texts.choice, ((5, 6, 5000),), "one", "another")
    with pytest.raises(InputError, match="token 5000"):
        prune(checkpoint, Request(drop=(1,)), beyond, NoProgress())


def test_weights_that_are_not_numbers_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, texts: Texts
) -> None:
    from safetensors.torch import load_file, save_file

    copy = with_tokenizer(tiny_checkpoint, tmp_path / "copy", lambda _document: None)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="not finite"):
        prune(Checkpoint.open(copy), Request(drop=(1,)), texts, NoProgress())
