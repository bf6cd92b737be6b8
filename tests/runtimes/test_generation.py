"""The generation loop and LocalRuntime on a toy model whose every logit depends on its cache."""

from __future__ import annotations

import runpy
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import EngineFailure, InputError, UsageError
from runtimes.base import Chunk, Message, Sampling
from runtimes.local import LocalRuntime

toy = runpy.run_path(str(Path(__file__).with_name("toy_engine.py")))
ToyEngine, toy_manifest, START, END = (
    toy[name] for name in ("ToyEngine", "toy_manifest", "START", "END")
)


def runtime_of(engine: Any, **manifest: object) -> LocalRuntime:
    return LocalRuntime(engine, toy_manifest(**manifest))


def scripted(script: str, **options: Any) -> LocalRuntime:
    return runtime_of(ToyEngine(script.encode(), **options))


def ask(runtime: LocalRuntime, text: str = "hi", **sampling: Any) -> list[Chunk]:
    return list(runtime.generate([Message("user", text)], Sampling(**sampling)))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def greedy(prompt: list[int], count: int) -> list[int]:
    """Return the toy model's own continuation, computed without cache or loop."""
    engine, tokens = ToyEngine(), list(prompt)
    for _ in range(count):
        tokens.append(int(engine.logits(tokens).argmax()))
    return tokens[len(prompt) :]


def test_the_model_ends_its_answer() -> None:
    chunks = ask(scripted("Hello!"))
    assert text_of(chunks) == "Hello!"
    assert [chunk.tokens for chunk in chunks] == [1] * 6 + [0]
    assert [chunk.finish for chunk in chunks] == [None] * 6 + ["stop"]
    assert {chunk.prompt_tokens for chunk in chunks} == {3}


def test_stop_tokens_can_be_ignored() -> None:
    chunks = ask(scripted("ab"), max_tokens=4, ignore_stop_tokens=True)
    assert text_of(chunks) == "ab<end><end>"
    assert chunks[-1].finish == "length"


@pytest.mark.parametrize("max_tokens", [1, 3])
def test_max_tokens_end_the_answer(max_tokens: int) -> None:
    chunks = ask(scripted("Hello!"), max_tokens=max_tokens)
    assert text_of(chunks) == "Hello!"[:max_tokens]
    assert chunks[-1].finish == "length"
    assert sum(chunk.tokens for chunk in chunks) == max_tokens


def test_a_stop_text_across_chunks_is_not_shown() -> None:
    chunks = ask(scripted("one\nUser: two"), stop=("\nUser:",))
    assert text_of(chunks) == "one"
    assert chunks[-1].finish == "stop"
    assert sum(chunk.tokens for chunk in chunks) == len("one\nUser:")


def test_a_held_back_beginning_of_a_stop_text_comes_out_at_the_end() -> None:
    assert text_of(ask(scripted("one\nUse"), stop=("\nUser:",))) == "one\nUse"
    assert text_of(ask(scripted("one\nUser"), stop=("\nUser:",), max_tokens=6)) == "one\nUs"


def test_characters_come_out_whole() -> None:
    chunks = ask(scripted("aé🙂"))
    assert [chunk.text for chunk in chunks] == ["a", "", "é", "", "", "", "🙂", ""]
    cut = ask(scripted("a🙂"), max_tokens=3)
    assert text_of(cut) == "a\ufffd"


def test_the_context_ends_the_answer() -> None:
    chunks = ask(scripted("x" * 99, context_length=10))
    assert text_of(chunks) == "x" * 7  # 3 prompt tokens and 7 more
    assert chunks[-1].finish == "context"


def test_a_prompt_may_leave_room_for_one_token() -> None:
    chunks = ask(scripted("xyz", context_length=4))
    assert (text_of(chunks), chunks[-1].finish) == ("x", "context")


def test_a_longer_prompt_is_an_error_with_both_numbers() -> None:
    runtime = scripted("x", context_length=4)
    with pytest.raises(InputError, match=r"prompt has 4 tokens and the context holds 4"):
        ask(runtime, "abc")
    assert text_of(ask(runtime, "ab")) == "x"


def test_completing_nothing_and_unknown_tokens_are_errors() -> None:
    runtime = scripted("x")
    with pytest.raises(InputError, match="empty"):
        list(runtime.complete([], Sampling()))
    for bad in (-1, 258):
        with pytest.raises(InputError, match=f"token {bad} at position 1"):
            list(runtime.complete([1, bad], Sampling()))
        with pytest.raises(InputError, match=f"token {bad}"):
            runtime.score([1, bad])
        with pytest.raises(InputError, match=f"token {bad}"):
            runtime.detokenize([1, bad])


def test_impossible_sampling_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="top_p"):
        ask(scripted("x"), top_p=0.0)


def test_the_common_prefix_is_evaluated_once() -> None:
    engine = ToyEngine()
    runtime = runtime_of(engine)
    first = list(runtime.complete([1, 2, 3, 4, 5], Sampling(max_tokens=4)))
    assert first[0].reused_tokens == 0
    engine.evaluated.clear()
    again = list(runtime.complete([1, 2, 3, 9, 9, 9], Sampling(max_tokens=2)))
    assert again[0].reused_tokens == 3
    assert engine.evaluated[0] == 3
    same = list(runtime.complete([1, 2, 3, 9, 9, 9], Sampling(max_tokens=1)))
    assert same[0].reused_tokens == 5  # the last token's logits are needed anew


@pytest.mark.parametrize("earlier", [[], [1], [1, 2, 3], [1, 2, 3, 4, 5, 6], [7, 7]])
def test_reuse_changes_no_answer(earlier: list[int]) -> None:
    runtime = runtime_of(ToyEngine())
    if earlier:
        list(runtime.complete(earlier, Sampling(max_tokens=5)))
    tokens = runtime.complete([1, 2, 3], Sampling(max_tokens=6))
    data = b"".join(bytes([token]) for token in greedy([1, 2, 3], 6))
    assert text_of(list(tokens)) == data.decode("utf-8", "replace")


def test_closing_the_iterator_leaves_a_cache_that_works() -> None:
    runtime = runtime_of(ToyEngine())
    answer = runtime.complete([1, 2, 3], Sampling(max_tokens=30))
    for _ in range(4):
        next(answer)
    answer.close()
    assert list(answer) == []
    chunks = list(runtime.complete([1, 2, 3], Sampling(max_tokens=6)))
    assert chunks[0].reused_tokens == 2
    assert text_of(chunks) == bytes(greedy([1, 2, 3], 6)).decode("utf-8", "replace")


def test_a_cancel_during_the_prompt_ends_the_answer_and_keeps_the_cache_right() -> None:
    engine = ToyEngine(token_s=0.02)
    runtime = runtime_of(engine)
    list(runtime.complete([1, 2], Sampling(max_tokens=1)))
    answer = runtime.complete([1, 2, *range(50)], Sampling())
    threading.Timer(0.1, answer.close).start()
    start = time.monotonic()
    assert list(answer) == []
    assert time.monotonic() - start < 0.5  # the whole prompt would take 1 s
    assert engine.cached_tokens == [1, 2]
    engine._token_s = 0
    chunks = list(runtime.complete([1, 2, 3], Sampling(max_tokens=3)))
    assert text_of(chunks) == bytes(greedy([1, 2, 3], 3)).decode("utf-8", "replace")


def test_close_from_another_thread_ends_an_answer() -> None:
    engine = ToyEngine(token_s=0.005)
    runtime = runtime_of(engine)
    answer = runtime.complete([1, 2], Sampling(max_tokens=60))
    threading.Timer(0.05, runtime.close).start()
    assert 0 < len(list(answer)) < 60
    runtime.close()
    assert engine.closed
    with pytest.raises(EngineFailure, match="closed"):
        list(runtime.complete([1], Sampling()))
    with pytest.raises(EngineFailure, match="closed"):
        runtime.score([1])


def test_score_is_what_the_model_says() -> None:
    runtime = runtime_of(ToyEngine())
    logits = runtime.score([5, 6, 7])
    assert logits.shape == (3, 258)
    assert logits.dtype == np.float32
    assert np.array_equal(logits[1], ToyEngine().logits([5, 6]))
    assert runtime.score([]).shape == (0, 258)
    with pytest.raises(InputError, match="65 tokens do not fit a context of 64"):
        runtime.score([1] * 65)


def test_a_beginning_of_text_stands_in_front_once() -> None:
    def prompt(**manifest: object) -> list[int]:
        runtime = runtime_of(ToyEngine(), bos_token_id=START, **manifest)
        return runtime.prompt([Message("user", "a")])

    plain, own = "{{ messages[0].content }}", "{{ bos_token }}{{ messages[0].content }}"
    assert prompt(add_bos_token=True, chat_template=plain) == [START, 97]
    assert prompt(add_bos_token=True, chat_template=own) == [START, 97]
    assert prompt(add_bos_token=False, chat_template=own) == [START, 97]
    assert prompt(add_bos_token=False, chat_template=plain) == [97]


def test_a_model_without_a_template_can_only_continue_text() -> None:
    runtime = runtime_of(ToyEngine(), chat_template=None)
    with pytest.raises(InputError, match="toy has no chat template"):
        ask(runtime)
    assert len(list(runtime.complete([1], Sampling(max_tokens=2)))) == 2


def test_a_manifest_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"promises a vocabulary of 300, its model has 258"):
        runtime_of(ToyEngine(), vocabulary_size=300)


def test_state_and_text_go_through() -> None:
    runtime = runtime_of(ToyEngine())
    assert runtime.tokenize("hé") == [104, 195, 169]
    assert runtime.tokenize("<start>", special=True) == [START]
    assert runtime.detokenize([104, 195, 169, END, 195]) == "hé<end>\ufffd"


def test_state_round_trip(tmp_path: Path) -> None:
    runtime = runtime_of(ToyEngine())
    list(runtime.complete([1, 2, 3], Sampling(max_tokens=3)))
    assert runtime.save_state(tmp_path / "state") == 5
    fresh = runtime_of(ToyEngine())
    assert fresh.load_state(tmp_path / "state") == 5
    assert next(fresh.complete([1, 2, 3], Sampling())).reused_tokens == 2
    assert runtime.peak_rss_bytes > 10e6
