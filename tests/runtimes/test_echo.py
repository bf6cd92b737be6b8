"""The runtime with no model keeps every promise of Runtime."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from runtimes.base import Chunk, Message, Runtime, Sampling
from runtimes.echo import EchoRuntime

WORDS = "  one two\nthrée 🙂 "


def ask(runtime: Runtime, text: str = WORDS, **sampling: object) -> list[Chunk]:
    return list(runtime.generate([Message("user", text)], Sampling(**sampling)))  # type: ignore[arg-type]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_it_echoes_word_by_word() -> None:
    chunks = ask(EchoRuntime())
    assert [chunk.text for chunk in chunks] == ["  one", " two", "\nthrée", " 🙂", " ", ""]
    assert sum(chunk.tokens for chunk in chunks) == len(WORDS.encode())
    assert [chunk.finish for chunk in chunks] == [None] * 5 + ["stop"]
    assert {chunk.prompt_tokens for chunk in chunks} == {len(f"user: {WORDS}\n".encode())}


def test_limits_end_it_as_they_end_a_model() -> None:
    limited = ask(EchoRuntime(), max_tokens=7)
    assert (text_of(limited), limited[-1].finish) == ("  one t", "length")
    stopped = ask(EchoRuntime(), stop=("wo\nt",))
    assert (text_of(stopped), stopped[-1].finish) == ("  one t", "stop")
    full = ask(EchoRuntime(context_length=32))
    assert full[-1].finish == "context"
    assert sum(c.tokens for c in full) + full[0].prompt_tokens == 32
    with pytest.raises(InputError, match="prompt has 30 tokens and the context holds 30"):
        ask(EchoRuntime(context_length=30), "x" * 23)
    with pytest.raises(UsageError, match="top_k"):
        ask(EchoRuntime(), top_k=-1)


def test_it_reuses_what_it_has_seen() -> None:
    runtime = EchoRuntime()
    assert ask(runtime, "abc")[0].reused_tokens == 0
    assert ask(runtime, "abd")[0].reused_tokens == len("user: ab")


def test_it_is_cancelled_and_closed_from_another_thread() -> None:
    runtime = EchoRuntime(delay_s=0.05)
    for end in ("answer", "runtime"):
        answer = runtime.generate([Message("user", "a b c d e f g h i j k l")], Sampling())
        threading.Timer(0.12, answer.close if end == "answer" else runtime.close).start()
        start = time.monotonic()
        assert len(list(answer)) < 8
        assert time.monotonic() - start < 0.4
    runtime.close()


def test_scores_are_a_fixed_distribution() -> None:
    runtime = EchoRuntime()
    logits = runtime.score([65, 255])
    assert (logits.shape, logits.dtype) == ((2, 256), np.float32)
    assert list(logits.argmax(1)) == [66, 0]
    assert np.array_equal(np.roll(logits[0], 255 - 65), logits[1])
    assert runtime.score([]).shape == (0, 256)
    with pytest.raises(InputError, match="token 256"):
        runtime.score([256])
    with pytest.raises(InputError, match="do not fit"):
        runtime.score([1] * 4097)


def test_text_and_state_round_trip(tmp_path: Path) -> None:
    runtime = EchoRuntime()
    assert runtime.detokenize(runtime.tokenize(WORDS)) == WORDS
    completed = list(runtime.complete(runtime.tokenize("a b"), Sampling()))
    assert text_of(completed) == "a b"
    with pytest.raises(InputError, match="token 999"):
        list(runtime.complete([999], Sampling()))
    saved = runtime.save_state(tmp_path / "state")
    assert EchoRuntime().load_state(tmp_path / "state") == saved == 6
    (tmp_path / "state").write_bytes(b'{"echo": [-1]}')
    with pytest.raises(InputError, match="not a saved state"):
        runtime.load_state(tmp_path / "state")
