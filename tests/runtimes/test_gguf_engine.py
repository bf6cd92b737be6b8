"""llama.cpp under our engine, on a two-layer Llama written by gguf-py, against plain numpy."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.artifact import Artifact, Manifest, Source, finish
from edgekit.errors import InputError, UsageError
from runtimes.base import Message, Runtime, Sampling
from runtimes.engine import Interrupted
from runtimes.gguf_engine import BATCH_TOKENS, GgufEngine
from runtimes.load import load

Weights = dict[str, NDArray[np.float32]]

WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS, CONTEXT = 64, 4, 2, 96, 2, 512
HEAD = WIDTH // HEADS
EPSILON, ROPE_BASE = 1e-5, 10000.0
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def byte_letters() -> list[str]:
    """Return GPT-2's printable letter for each byte (Radford et al. 2019, encoder.py)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


LETTERS = byte_letters()
TOKENS = SPECIAL + LETTERS + [merge.replace(" ", "") for merge in MERGES]
VOCABULARY = len(TOKENS)


def random_weights() -> Weights:
    random = np.random.default_rng(11)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (random.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32)

    weights = {"token_embd": matrix(VOCABULARY, WIDTH) * 4, "output": matrix(VOCABULARY, WIDTH) * 3}
    weights["output_norm"] = random.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    for n in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", KV_HEADS * HEAD, WIDTH),
            ("attn_v", KV_HEADS * HEAD, WIDTH), ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", HIDDEN, WIDTH), ("ffn_up", HIDDEN, WIDTH), ("ffn_down", WIDTH, HIDDEN),
        ):  # fmt: skip
            weights[f"blk.{n}.{name}"] = matrix(rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            weights[f"blk.{n}.{name}"] = random.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    return weights


def write_gguf(path: Path, weights: Weights) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (VOCABULARY - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reference(weights: Weights, ids: list[int]) -> NDArray[np.float64]:
    """Return the logits of a Llama (Touvron et al. 2023), the whole sequence at once."""

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)
        return x / scale * weights[name].astype(np.float64)

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ weights[name].astype(np.float64).T

    def rotate(x: NDArray[np.float64]) -> NDArray[np.float64]:  # GGUF: neighbouring pairs
        angles = np.arange(len(ids))[:, None] * ROPE_BASE ** (-np.arange(0, HEAD, 2) / HEAD)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    x = weights["token_embd"][ids].astype(np.float64)
    mask = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for n in range(LAYERS):
        h = norm(x, f"blk.{n}.attn_norm")
        q = rotate(linear(h, f"blk.{n}.attn_q").reshape(-1, HEADS, HEAD))
        k = rotate(linear(h, f"blk.{n}.attn_k").reshape(-1, KV_HEADS, HEAD))
        v = linear(h, f"blk.{n}.attn_v").reshape(-1, KV_HEADS, HEAD)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(HEAD) + mask
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", shares, v).reshape(len(ids), WIDTH)
        x = x + linear(mixed, f"blk.{n}.attn_output")
        h = norm(x, f"blk.{n}.ffn_norm")
        gate = linear(h, f"blk.{n}.ffn_gate")
        gated = gate / (1 + np.exp(-gate)) * linear(h, f"blk.{n}.ffn_up")
        x = x + linear(gated, f"blk.{n}.ffn_down")
    return linear(norm(x, "output_norm"), "output")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> Artifact:
    folder = tmp_path_factory.mktemp("tiny-gguf")
    write_gguf(folder / "model.gguf", weights)
    manifest = Manifest(
        name="tiny", format="gguf", scheme="f32", entry="model.gguf", architecture="llama",
        parameters=1, vocabulary_size=VOCABULARY, context_length=CONTEXT, kv_bytes_per_token=256,
        bits_per_weight=32.0, bos_token_id=0, add_bos_token=False, stop_token_ids=[2, 0],
        chat_template=TEMPLATE, files=[], source=Source("tiny", "", "", {}, {}),
    )  # fmt: skip
    finish(folder, manifest)
    return Artifact.open(folder)


def new_engine(artifact: Artifact, context_length: int = CONTEXT) -> GgufEngine:
    return GgufEngine(artifact, context_length=context_length, threads=1)


@pytest.fixture(scope="module")
def shared(artifact: Artifact) -> GgufEngine:
    return new_engine(artifact)


@pytest.fixture
def engine(shared: GgufEngine) -> GgufEngine:
    shared.truncate(0)
    return shared


def some_ids(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, VOCABULARY, count)]


def score(engine: GgufEngine, ids: list[int]) -> NDArray[np.float32]:
    out = np.empty((len(ids), VOCABULARY), np.float32)
    engine.score(ids, out)
    return out


def close(a: NDArray[np.float32], b: NDArray[np.float32] | NDArray[np.float64]) -> bool:
    return bool(np.abs(a - b).max() < 0.03)  # logits have a deviation of 3; the cache is float16


@pytest.mark.parametrize("length", [1, 2, 60, BATCH_TOKENS, BATCH_TOKENS + 1, 300])
def test_score_is_what_numpy_computes(engine: GgufEngine, weights: Weights, length: int) -> None:
    ids = some_ids(length)
    expected = reference(weights, ids)
    assert expected.std() > 2
    assert close(score(engine, ids), expected)
    assert engine.cached_tokens == ids


def test_evaluate_gives_the_row_of_score(engine: GgufEngine) -> None:
    ids = some_ids(200)
    rows = score(engine, ids)
    engine.truncate(0)
    assert close(engine.evaluate(ids[:150]), rows[149])
    assert close(engine.evaluate(ids[150:151]), rows[150])
    assert close(engine.evaluate(ids[151:]), rows[199])
    assert engine.cached_tokens == ids


def test_after_truncate_it_goes_on_as_if_fresh(engine: GgufEngine) -> None:
    ids, other = some_ids(150), some_ids(20, seed=5)
    engine.evaluate(ids)
    engine.truncate(140)
    went_on = engine.evaluate(other).copy()
    engine.truncate(0)
    assert close(went_on, engine.evaluate(ids[:140] + other))
    assert engine.cached_tokens == ids[:140] + other


def test_an_interrupt_ends_a_long_evaluation_and_the_cache_stays_right(engine: GgufEngine) -> None:
    ids = some_ids(400)
    fresh = engine.evaluate(ids).copy()
    engine.truncate(0)
    engine.evaluate(ids[:10])
    hits = 0
    for _ in range(20):
        stop = threading.Thread(target=lambda: (time.sleep(0.005), engine.interrupt()))
        stop.start()
        try:
            engine.evaluate(ids[len(engine.cached_tokens) :])
        except Interrupted:
            hits += 1
        stop.join()
        kept = list(engine.cached_tokens)
        assert kept == ids[: len(kept)]
        assert len(kept) >= 10
        if hits:
            break
        engine.truncate(10)
    assert hits
    assert close(engine.evaluate(ids[len(engine.cached_tokens) :]), fresh)


def test_tokens_and_their_bytes(engine: GgufEngine) -> None:
    assert engine.tokenize("hello", special=False) == [TOKENS.index("hello")]
    text = "hello wörld 🙂\x00\n\t"
    ids = engine.tokenize(text, special=False)
    assert b"".join(engine.token_bytes(i) for i in ids) == text.encode()
    assert [engine.token_bytes(3 + b) for b in range(256)] == [bytes([b]) for b in range(256)]
    assert engine.tokenize("", special=True) == []


def test_special_tokens_are_parsed_only_when_asked(engine: GgufEngine) -> None:
    assert engine.tokenize("<|im_start|>h<|im_end|>", special=True) == [1, 3 + ord("h"), 2]
    plain = engine.tokenize("<|im_start|>", special=False)
    assert not set(plain) & {0, 1, 2}
    assert [engine.token_bytes(i) for i in range(3)] == [s.encode() for s in SPECIAL]


def test_a_saved_state_goes_on_where_it_was(
    engine: GgufEngine, artifact: Artifact, tmp_path: Path
) -> None:
    ids = some_ids(200)
    expected = score(engine, ids)[-1]
    engine.truncate(150)
    engine.save_state(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "state"]
    fresh = new_engine(artifact)
    fresh.evaluate(some_ids(30, seed=9))
    fresh.load_state(tmp_path / "state")
    assert fresh.cached_tokens == ids[:150]
    assert close(fresh.evaluate(ids[150:]), expected)
    fresh.close()


def test_an_empty_state_can_be_saved(engine: GgufEngine, tmp_path: Path) -> None:
    engine.save_state(tmp_path / "state")
    engine.evaluate([5])
    engine.load_state(tmp_path / "state")
    assert engine.cached_tokens == []
    assert engine.evaluate([5]).shape == (VOCABULARY,)


def test_a_state_that_does_not_fit_is_refused(
    engine: GgufEngine, artifact: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    engine.evaluate(some_ids(100))
    engine.save_state(path)
    short = new_engine(artifact, context_length=64)
    with pytest.raises(InputError, match="holds 100 tokens and the context 64"):
        short.load_state(path)
    short.close()
    entry = replace(artifact.manifest.files[0], sha256="0" * 64)
    other = new_engine(replace(artifact, manifest=replace(artifact.manifest, files=[entry])))
    with pytest.raises(InputError, match="saved by another model"):
        other.load_state(path)
    other.close()
    path.write_bytes(path.read_bytes().replace(b"llama-cpp-python 0.", b"llama-cpp-python 9."))
    with pytest.raises(InputError, match=r"saved by llama-cpp-python 9\."):
        engine.load_state(path)
    with pytest.raises(InputError, match="cannot be read"):
        engine.load_state(tmp_path / "absent")


def test_a_damaged_state_is_refused_wherever_the_damage_is(
    engine: GgufEngine, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    ids = some_ids(50)
    engine.evaluate(ids)
    engine.save_state(path)
    good = path.read_bytes()
    random = np.random.default_rng(3)
    places = [*range(14), *(int(p) for p in random.integers(14, len(good), 60))]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 0x41
        path.write_bytes(bad)
        with pytest.raises(InputError):
            engine.load_state(path)
    for length in (0, 3, 11, 12, 40, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(InputError):
            engine.load_state(path)
    assert engine.cached_tokens == ids  # a refused file changes nothing
    path.write_bytes(good)
    engine.load_state(path)
    assert engine.cached_tokens == ids


def test_a_state_with_a_right_hash_and_a_wrong_payload_is_refused_by_llama(
    engine: GgufEngine, tmp_path: Path
) -> None:
    import hashlib

    path = tmp_path / "state"
    engine.evaluate(some_ids(50))
    engine.save_state(path)
    data = path.read_bytes()
    length = int.from_bytes(data[8:12], "little")
    header, payload = json.loads(data[12 : 12 + length]), data[12 + length :]
    for wrong in (b"\xff" * len(payload), payload[: len(payload) // 2] * 2, b""):
        header |= {"payload_bytes": len(wrong), "payload_sha256": hashlib.sha256(wrong).hexdigest()}
        encoded = json.dumps(header).encode()
        path.write_bytes(data[:8] + len(encoded).to_bytes(4, "little") + encoded + wrong)
        with pytest.raises(InputError, match=r"llama\.cpp refuses"):
            engine.load_state(path)
        assert engine.cached_tokens == []
        assert engine.evaluate([5]).shape == (VOCABULARY,)


def test_a_file_that_llama_refuses_is_an_input_error(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match=r"llama\.cpp cannot open .*model\.gguf: .+"):
        new_engine(replace(artifact, path=tmp_path))


def test_close_is_safe_twice(artifact: Artifact) -> None:
    engine = new_engine(artifact, context_length=32)
    engine.close()
    engine.close()


def answer(runtime: Runtime, **sampling: object) -> str:
    messages = [Message("user", "hello world")]
    chunks = runtime.generate(messages, Sampling(max_tokens=20, **sampling))  # type: ignore[arg-type]
    return "".join(chunk.text for chunk in chunks)


def test_a_worker_and_this_process_give_the_same(artifact: Artifact) -> None:
    near = load(artifact, in_process=True, threads=1)
    far = load(artifact, threads=1)
    try:
        ids = some_ids(200)
        assert np.array_equal(near.score(ids), far.score(ids))
        assert near.context_length == far.context_length == CONTEXT
        sampling = {"temperature": 0.9, "top_p": 0.9, "seed": 4}
        assert answer(near, **sampling) == answer(far, **sampling) != ""
        assert answer(near) == answer(far)
        assert near.detokenize(ids) == far.detokenize(ids)
    finally:
        near.close()
        far.close()


def test_load_checks_the_numbers_and_the_file(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="context of 513 tokens is asked for, tiny has 512"):
        load(artifact, context_length=513)
    with pytest.raises(UsageError, match="context of 1 tokens"):
        load(artifact, context_length=1)
    with pytest.raises(UsageError, match="0 threads"):
        load(artifact, threads=0)
    data = bytearray(artifact.entry.read_bytes())
    data[8:16] = (2**62).to_bytes(8, "little")  # the number of tensors
    (tmp_path / "model.gguf").write_bytes(data)
    (tmp_path / "edgekit.json").write_bytes((artifact.path / "edgekit.json").read_bytes())
    with pytest.raises(InputError, match="tensors"):
        load(Artifact.open(tmp_path))
