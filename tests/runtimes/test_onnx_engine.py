"""ONNX Runtime under our engine, against transformers on the same tiny checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from runtimes.base import Message, Sampling
from runtimes.engine import Interrupted
from runtimes.json_tokenizer import JsonTokenizer
from runtimes.load import load
from runtimes.onnx_engine import BATCH_TOKENS, OnnxEngine

CONTEXT = 400


def token_ids(count: int, seed: int = 0) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).integers(3, 300, count)]


def artifact_of(checkpoint: Path, out: Path, scheme: str = "f32") -> Artifact:
    recipe = Recipe.of("onnx", scheme)
    return convert(Checkpoint.open(checkpoint), recipe, out, progress=NoProgress())


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(tiny_checkpoint, tmp_path_factory.mktemp("onnx") / "f32")


@pytest.fixture
def engine(artifact: Artifact) -> Iterator[OnnxEngine]:
    opened = OnnxEngine(artifact, context_length=CONTEXT, threads=1)
    yield opened
    opened.close()


def scored(engine: OnnxEngine, ids: list[int]) -> NDArray[np.float32]:
    out = np.full((len(ids), engine.vocabulary_size), np.nan, dtype=np.float32)
    engine.score(ids, out)
    return out


def reference(checkpoint: Path, ids: list[int]) -> NDArray[np.float32]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([ids])).logits[0].numpy()
    return logits


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("llama", {"rope_scaling": LLAMA3}),
        ("llama", {"hidden_size": 200, "head_dim": 32}),
        ("mistral", {}),
        ("mistral", {"sliding_window": 9}),
        ("qwen2", {}),
        ("qwen3", {}),
    ],
)
def test_float32_logits_are_those_of_transformers(
    make_checkpoint: Callable[..., Path], tmp_path: Path, architecture: str, overrides: Any
) -> None:
    """More tokens than one run takes, so that the cache carries over between runs."""
    checkpoint = make_checkpoint(architecture, **overrides)
    engine = OnnxEngine(artifact_of(checkpoint, tmp_path / "a"), context_length=CONTEXT, threads=2)
    ids = token_ids(BATCH_TOKENS + 40)
    np.testing.assert_allclose(scored(engine, ids), reference(checkpoint, ids), atol=1e-4)


@pytest.mark.parametrize(("scheme", "limit"), [("f16", 1e-5), ("int8", 0.01), ("int4", 0.5)])
def test_quantised_models_diverge_a_little(
    tiny_checkpoint: Path, artifact: Artifact, tmp_path: Path, scheme: str, limit: float
) -> None:
    """KL divergence in nats from the float32 model; random weights suffer more than trained."""
    ids = token_ids(200)
    quantised = artifact_of(tiny_checkpoint, tmp_path / scheme, scheme)
    rows = [
        scored(OnnxEngine(a, context_length=CONTEXT, threads=1), ids).astype(np.float64)
        for a in (artifact, quantised)
    ]
    p, q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in rows)
    divergence = float((np.exp(p) * (p - q)).sum(axis=1).mean())
    assert 0 <= divergence < limit


def test_evaluate_gives_the_last_row_of_score(engine: OnnxEngine) -> None:
    ids = token_ids(BATCH_TOKENS + 40)
    rows = scored(engine, ids)
    engine.truncate(0)
    np.testing.assert_allclose(engine.evaluate(ids), rows[-1], atol=1e-5)
    assert list(engine.cached_tokens) == ids


def test_token_by_token_is_the_same_as_at_once(engine: OnnxEngine) -> None:
    ids = token_ids(30)
    rows = scored(engine, ids)
    engine.truncate(0)
    for row, token in zip(rows, ids, strict=True):
        np.testing.assert_allclose(engine.evaluate([token]), row, atol=1e-5)


def test_after_truncation_the_old_tail_is_forgotten(engine: OnnxEngine) -> None:
    ids, other = token_ids(50), token_ids(30, seed=9)
    fresh = scored(engine, ids[:20] + other)[-1]
    engine.truncate(0)
    engine.evaluate(ids)
    engine.truncate(20)
    assert list(engine.cached_tokens) == ids[:20]
    np.testing.assert_allclose(engine.evaluate(other), fresh, atol=1e-5)


def test_a_full_context_is_used_and_one_more_token_is_refused(engine: OnnxEngine) -> None:
    engine.evaluate(token_ids(CONTEXT))
    with pytest.raises(InputError, match="401 tokens do not fit a context of 400"):
        engine.evaluate([5])


def test_interrupt_keeps_what_was_before_and_the_engine_works_on(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("llama", max_position_embeddings=8192)
    engine = OnnxEngine(artifact_of(checkpoint, tmp_path / "a"), context_length=8192, threads=1)
    start, prompt = token_ids(10), token_ids(8000, seed=1)
    engine.evaluate(start)
    timer = threading.Timer(0.1, engine.interrupt)
    timer.start()
    with pytest.raises(Interrupted):
        engine.evaluate(prompt)
    assert list(engine.cached_tokens) == start
    after = engine.evaluate(prompt[:5]).copy()
    np.testing.assert_allclose(after, scored(engine, start + prompt[:5])[-1], atol=1e-5)


def test_an_interrupt_with_nothing_running_is_forgotten(engine: OnnxEngine) -> None:
    engine.interrupt()
    engine.evaluate(token_ids(5))


def test_a_saved_state_continues_as_if_never_left(
    engine: OnnxEngine, artifact: Artifact, tmp_path: Path
) -> None:
    ids, more = token_ids(60), token_ids(10, seed=2)
    engine.evaluate(ids)
    path = tmp_path / "state"
    engine.save_state(path)
    assert path.stat().st_mode & 0o777 == 0o600
    wanted = engine.evaluate(more).copy()
    other = OnnxEngine(artifact, context_length=200, threads=1)
    other.evaluate(token_ids(7, seed=3))
    other.load_state(path)
    assert list(other.cached_tokens) == ids
    np.testing.assert_allclose(other.evaluate(more), wanted, atol=1e-6)


def test_a_saved_state_that_does_not_fit_is_refused(
    engine: OnnxEngine, artifact: Artifact, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    engine.evaluate(token_ids(60))
    path = tmp_path / "state"
    engine.save_state(path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="holds 60 tokens and the context 50"):
        OnnxEngine(artifact, context_length=50, threads=1).load_state(path)
    other = artifact_of(make_checkpoint("qwen2"), tmp_path / "qwen2")
    with pytest.raises(InputError, match="another model"):
        OnnxEngine(other, context_length=CONTEXT, threads=1).load_state(path)
    for damaged in (whole[:-1], whole[:200], whole[:-5] + b"xxxxx", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            engine.load_state(path)
    assert len(engine.cached_tokens) == 60


def test_another_graph_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(artifact.entry, load_external_data=False)
    del model.graph.input[-1]  # `first_logit` is then no input but a constant
    entry = artifact.path / "model.onnx"
    whole = entry.read_bytes()
    try:
        entry.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match="not a graph of edgekit's"):
            OnnxEngine(artifact, context_length=CONTEXT, threads=1)
        entry.write_bytes(whole[:-500])
        with pytest.raises(InputError, match="cannot open"):
            OnnxEngine(artifact, context_length=CONTEXT, threads=1)
    finally:
        entry.write_bytes(whole)


def test_a_conversation_through_the_worker_is_the_one_in_this_process(artifact: Artifact) -> None:
    messages = [Message("user", "The quick brown fox")]
    texts = []
    for in_process in (True, False):
        runtime = load(artifact, threads=1, in_process=in_process)
        chunks = list(runtime.generate(messages, Sampling(max_tokens=12)))
        texts.append("".join(chunk.text for chunk in chunks))
        runtime.close()
    assert texts[0] == texts[1] != ""


class TestTokenizer:
    """Against the tokenizers library's own decoding."""

    TEXTS = (
        "The quick brown fox", "  two  spaces\n\n\ttab", "Zwölf Boxkämpfer 12345", "敏捷的棕色狐狸",
        "🙂👩‍👩‍👧", "def f(x):\n    return x\n", "\x00\x7f\x80", "",
    )  # fmt: skip

    @pytest.fixture
    def tokenizer(self, tiny_checkpoint: Path) -> JsonTokenizer:
        return JsonTokenizer(tiny_checkpoint / "tokenizer.json", "onnx")

    @pytest.mark.parametrize("text", TEXTS)
    def test_bytes_of_tokens_are_the_text(self, tokenizer: JsonTokenizer, text: str) -> None:
        for special in (True, False):
            ids = tokenizer.ids(text, special=special)
            assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text

    def test_special_texts_are_plain_unless_asked(self, tokenizer: JsonTokenizer) -> None:
        text = "a<|im_start|>user<|im_end|>"
        special, plain = (tokenizer.ids(text, special=wanted) for wanted in (True, False))
        assert (special.count(1), special.count(2)) == (1, 1)
        assert not {0, 1, 2} & set(plain)
        for ids in (special, plain):
            assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text
        assert tokenizer.ids(text, special=True) == special  # the choice is not sticky

    def test_an_unknown_id_has_no_bytes(self, tokenizer: JsonTokenizer) -> None:
        assert tokenizer.token_bytes(10**6) == b""

    def test_sentence_pieces_are_bytes_and_blanks(self, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, decoders, models

        pieces = ["<unk>", "▁Hello", "<0xE2>", "<0x8C>", "<0x98>", "x"]
        library = Tokenizer(models.BPE({p: n for n, p in enumerate(pieces)}, [], unk_token="<unk>"))
        library.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        library.save(str(tmp_path / "tokenizer.json"))
        tokenizer = JsonTokenizer(tmp_path / "tokenizer.json", "onnx")
        text = b"".join(tokenizer.token_bytes(n) for n in (1, 2, 3, 4, 5)).decode()
        assert text == library.decode([1, 2, 3, 4, 5]) == " Hello⌘x"

    @pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"model": 3}'])
    def test_a_file_that_is_no_tokenizer_is_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as a tokenizer"):
            JsonTokenizer(tmp_path / "tokenizer.json", "onnx")
