from __future__ import annotations

import queue
import threading
import time

import pytest

from edgekit.errors import InputError
from runtimes.base import Chunk, Sampling
from tui.answering import Answering
from tui.timing import Stopwatch


def start(runtime, clock, report_every_s: float = 0.0):
    texts: list[str] = []
    outcomes: queue.Queue = queue.Queue()
    answering = Answering(
        runtime,
        [],
        Sampling(),
        on_text=lambda text, _: texts.append(text),
        on_end=outcomes.put,
        clock=clock,
        report_every_s=report_every_s,
    )
    answering.start()
    return answering, texts, outcomes


def test_an_answer_is_reported_cleaned_and_timed(scripted) -> None:
    runtime = scripted(["a\x1b", "b", "c"])
    _, texts, outcomes = start(runtime, runtime.clock)
    outcome = outcomes.get(timeout=5)
    assert "".join(texts) == "abc"
    assert outcome.ending == "stop"
    assert outcome.timing.tokens == 3
    assert outcome.timing.first_token_s == pytest.approx(0.5)
    assert outcome.timing.decode_tokens_per_s == pytest.approx(2 / 0.1)


def test_text_before_a_pause_is_not_held_back(scripted) -> None:
    gate = threading.Event()
    runtime = scripted(["a", "b", gate, "c"])
    _, texts, outcomes = start(runtime, runtime.clock, report_every_s=0.05)
    deadline = time.monotonic() + 5
    while "".join(texts) != "ab" and time.monotonic() < deadline:
        time.sleep(0.005)
    assert "".join(texts) == "ab"
    gate.set()
    assert outcomes.get(timeout=5).ending == "stop"
    assert "".join(texts) == "abc"


def test_a_fast_model_is_reported_in_few_pieces(scripted) -> None:
    runtime = scripted([str(n % 10) for n in range(2000)])
    _, texts, outcomes = start(runtime, runtime.clock, report_every_s=10)
    outcomes.get(timeout=5)
    assert len("".join(texts)) == 2000
    assert len(texts) <= 2


def test_stop_interrupts_an_iterator_that_waits(scripted) -> None:
    runtime = scripted(["a", threading.Event(), "never"])
    answering, texts, outcomes = start(runtime, runtime.clock)
    deadline = time.monotonic() + 5
    while not texts and time.monotonic() < deadline:
        time.sleep(0.005)
    answering.stop()
    assert outcomes.get(timeout=5).ending == "stopped"
    assert texts == ["a"]


def test_stop_ends_a_generator_at_its_next_chunk(scripted) -> None:
    runtime = scripted()
    closed = threading.Event()

    def endless(messages, sampling):
        try:
            while True:
                time.sleep(0.001)
                yield Chunk("x", 1, 1, 0)
        finally:
            closed.set()

    runtime.generate = endless
    answering, _, outcomes = start(runtime, runtime.clock)
    answering.stop()
    assert outcomes.get(timeout=5).ending == "stopped"
    assert closed.is_set()


def test_an_error_is_an_outcome_after_the_text(scripted) -> None:
    error = InputError("no")
    runtime = scripted(["a", error])
    _, texts, outcomes = start(runtime, runtime.clock)
    outcome = outcomes.get(timeout=5)
    assert (outcome.ending, outcome.error, texts) == (None, error, ["a"])


def test_a_piece_without_tokens_is_not_the_first_token(manual_clock) -> None:
    clock = manual_clock()
    stopwatch = Stopwatch(clock)
    for seconds, tokens in ((1, 0), (1, 2), (2, 3)):
        clock.now += seconds
        stopwatch.note(Chunk("", tokens, 7, 0))
    timing = stopwatch.read()
    assert (timing.first_token_s, timing.decode_tokens_per_s) == (2, 1.5)
    assert timing.context_tokens == 12
