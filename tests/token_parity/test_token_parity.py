"""llama.cpp, Hugging Face and ONNX Runtime GenAI must cut every text of the corpus alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from converters.gguf_tokenizer import tokenizer_files
from edgekit.gguf_header import read_header

from ..converters.tiny_gguf import add_vocabulary
from ..real_model import real_gguf
from .corpus import build
from .tokenizers_of import HuggingFace, LlamaCpp, OnnxGenai, Transformers

PRE_TOKENIZERS = ("smollm", "gpt-2", "llama-bpe", "qwen2")
Disagreement = tuple[str, object, object]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    corpus = build()
    found = [text for category in corpus.values() for text in category]
    assert len(set(found)) >= 2000
    assert len(corpus) >= 10
    return found


@dataclass(frozen=True)
class Vocabulary:
    """A GGUF file and the folder with the tokenizer that was rebuilt from it."""

    gguf: Path
    folder: Path
    size: int
    missing_bytes: frozenset[int]
    special: tuple[str, ...]


def rebuilt(gguf: Path, folder: Path) -> Vocabulary:
    header = read_header(gguf)
    folder.mkdir()
    documents = tokenizer_files(header)
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    ids = documents["tokenizer.json"]["model"]["vocab"]
    missing = frozenset(byte for byte, letter in byte_letters().items() if letter not in ids)
    special = tuple(t["content"] for t in documents["tokenizer.json"]["added_tokens"])
    return Vocabulary(gguf, folder, len(ids), missing, special)


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in GPT-2's alphabet (`bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def train_across_boundaries(folder: Path, texts: list[str]) -> None:
    """Train a tokenizer that merges across words, digits and spaces.

    A difference in splitting then changes tokens, which a vocabulary of words would hide.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # llama.cpp takes some texts in angle brackets for special tokens whatever their type
    tokenizer.train_from_iterator([text[:40] for text in texts if "<" not in text], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
        "chat_template": "",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_vocabulary(source: Path, path: Path, pre: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    add_vocabulary(writer, source, pre)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Callable[..., Vocabulary]:
    work = tmp_path_factory.mktemp("vocabulary")
    train_across_boundaries(work, texts)

    @cache
    def make(pre: str) -> Vocabulary:
        write_vocabulary(work, work / f"{pre}.gguf", pre)
        return rebuilt(work / f"{pre}.gguf", work / pre)

    return make


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return rebuilt(real_gguf(), tmp_path_factory.mktemp("real") / "folder")


@pytest.fixture
def llama_cpp() -> Iterator[Callable[[Path], LlamaCpp]]:
    opened: list[LlamaCpp] = []

    def load(path: Path) -> LlamaCpp:
        opened.append(LlamaCpp(path))
        return opened[-1]

    yield load
    for tokenizer in opened:
        tokenizer.close()


def spells(vocabulary: Vocabulary, text: str) -> bool:
    """Return whether the vocabulary has a token for every byte of `text`.

    A byte without a token is dropped by all: by llama.cpp after merging, by Hugging Face before,
    so that its neighbours may merge, and GenAI gives the id -1.
    """
    return vocabulary.missing_bytes.isdisjoint(text.encode())


def genai_reads(vocabulary: Vocabulary, text: str) -> bool:
    """Return whether GenAI 0.14.1 reads `text` right, whatever the tokenizer's files say.

    It ends a text at NUL, does not count U+0085 as a space, does not decode U+FFFE, and loses
    what follows a "<" that could begin a special token but for the text's end.
    """
    if not {"\0", "\x85", "\ufffe"}.isdisjoint(text):
        return False
    for token in vocabulary.special:
        text = text.replace(token, " " * len(token))
    longest = max(map(len, vocabulary.special))
    return "<" not in text[-longest:]


def assert_agree(disagreements: list[Disagreement]) -> None:
    assert not disagreements, f"{len(disagreements)} disagree, the first: {disagreements[:3]}"


def check_llama_cpp(vocabulary: Vocabulary, llama: LlamaCpp, texts: list[str]) -> None:
    """Compare llama.cpp with tokenizers: ids with and without special tokens, decoded text."""
    fast = HuggingFace(vocabulary.folder)
    found: list[Disagreement] = []
    for text in texts:
        ids, plain = llama.encode(text), llama.encode(text, special=False)
        pairs: list[tuple[object, object]] = [(llama.decode(ids), fast.decode(ids))]
        if spells(vocabulary, text):
            pairs += [
                (ids, fast.encode(text)),
                (plain, fast.encode(text, special=False)),
                (llama.decode(ids), text),
                (llama.decode(plain), text),
            ]
        found += [(text, left, right) for left, right in pairs if left != right]
    assert_agree(found)


def check_transformers(vocabulary: Vocabulary, texts: list[str]) -> None:
    """Compare what transformers makes of the folder with tokenizers on its tokenizer.json."""
    fast, auto = HuggingFace(vocabulary.folder), Transformers(vocabulary.folder)
    found: list[Disagreement] = []
    for text in texts:
        ids = fast.encode(text)
        pairs = [(ids, auto.encode(text)), (fast.decode(ids), auto.decode(ids))]
        found += [(text, left, right) for left, right in pairs if left != right]
    assert_agree(found)


def check_genai(vocabulary: Vocabulary, texts: list[str], work: Path) -> int:
    """Compare GenAI with tokenizers; return the number of texts compared."""
    fast, genai = (
        HuggingFace(vocabulary.folder),
        OnnxGenai(vocabulary.folder, work, vocabulary.size),
    )
    compared = [t for t in texts if genai_reads(vocabulary, t) and spells(vocabulary, t)]
    found: list[Disagreement] = []
    for text in compared:
        ids = fast.encode(text)
        pairs = [
            (ids, genai.encode(text)),
            (text, genai.decode(ids)),
            (text, genai.decode_stream(ids)),
        ]
        found += [(text, left, right) for left, right in pairs if left != right]
    assert_agree(found)
    return len(compared)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_a_small_vocabulary_in_llama_cpp(
    small: Callable[..., Vocabulary],
    llama_cpp: Callable[[Path], LlamaCpp],
    texts: list[str],
    pre: str,
) -> None:
    vocabulary = small(pre)
    assert not vocabulary.missing_bytes
    check_llama_cpp(vocabulary, llama_cpp(vocabulary.gguf), texts[::3])


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_a_small_vocabulary_in_genai(
    small: Callable[..., Vocabulary], texts: list[str], tmp_path: Path, pre: str
) -> None:
    """Not "llama-bpe" and "qwen2": GenAI 0.14.1 cuts a line of spaces between line ends."""
    pytest.importorskip("onnxruntime_genai")
    assert check_genai(small(pre), texts[::3], tmp_path / "genai") > 0.3 * len(texts)


def test_a_small_vocabulary_in_transformers(
    small: Callable[..., Vocabulary], texts: list[str]
) -> None:
    check_transformers(small("smollm"), texts[::6])


@pytest.mark.model
def test_the_real_vocabulary_in_llama_cpp(
    real: Vocabulary, llama_cpp: Callable[[Path], LlamaCpp], texts: list[str]
) -> None:
    llama = llama_cpp(real.gguf)
    check_llama_cpp(real, llama, texts)
    assert sum(spells(real, text) for text in texts) > 0.97 * len(texts)
    for text in texts:
        ids = llama.encode(text)
        assert llama.detokenize(ids) == llama.decode(ids)


@pytest.mark.model
def test_the_real_vocabulary_in_genai(real: Vocabulary, texts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    assert check_genai(real, texts, tmp_path / "genai") > 0.9 * len(texts)


@pytest.mark.model
def test_the_real_vocabulary_in_transformers(real: Vocabulary, texts: list[str]) -> None:
    check_transformers(real, texts)
