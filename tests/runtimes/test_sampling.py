"""The sampler against a slow implementation written from the docstring of `Sampling`."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from runtimes.base import Sampling
from runtimes.sampling import Sampler, candidates, penalise

RANDOM = np.random.default_rng(1)


def slow_distribution(
    logits: list[float], tokens: list[int], sampling: Sampling
) -> dict[int, float]:
    """Return the probability of every token that may be drawn."""
    values = list(logits)
    window = tokens[-sampling.repetition_window :] if sampling.repetition_window else []
    for token in set(window):
        value = values[token]
        penalty = sampling.repetition_penalty
        values[token] = value / penalty if value > 0 else value * penalty
    alive = sorted(range(len(values)), key=lambda i: -values[i])
    if sampling.top_k:
        alive = alive[: sampling.top_k]
    total = sum(math.exp(values[i]) for i in alive)
    if sampling.top_p < 1:
        nucleus, held = [], 0.0
        for i in alive:
            nucleus.append(i)
            held += math.exp(values[i]) / total
            if held >= sampling.top_p:
                break
        alive = nucleus
    best = max(values[i] for i in alive)
    if sampling.min_p:
        alive = [i for i in alive if math.exp(values[i] - best) >= sampling.min_p]
    weights = {i: math.exp((values[i] - best) / sampling.temperature) for i in alive}
    return {i: weight / sum(weights.values()) for i, weight in weights.items()}


@pytest.mark.parametrize("round_number", range(60))
def test_the_candidates_are_those_of_the_slow_sampler(round_number: int) -> None:
    random = np.random.default_rng(round_number)
    logits = (random.normal(size=random.integers(2, 400)) * random.uniform(0.1, 6)).astype("f4")
    sampling = Sampling(
        temperature=float(random.uniform(0.2, 2)),
        top_k=int(random.choice([0, 1, 5, 40, 1000])),
        top_p=float(random.choice([1.0, 0.95, 0.5, 0.01])),
        min_p=float(random.choice([0.0, 0.02, 0.3])),
    )
    ids, kept = candidates(logits, sampling)
    found = np.arange(len(logits)) if ids is None else ids
    assert list(found) == sorted(slow_distribution(logits.tolist(), [], sampling))
    assert list(kept) == list(logits[found])


def test_draws_follow_the_distribution() -> None:
    logits = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)
    sampling = Sampling(
        temperature=0.8, top_k=5, top_p=0.97, min_p=0.05, repetition_penalty=1.3, seed=3
    )
    expected = slow_distribution(logits.tolist(), [0, 4], sampling)
    sampler = Sampler(sampling)
    draws = 8_000
    counts = Counter(sampler.choose(logits, [0, 4]) for _ in range(draws))
    assert set(counts) == set(expected)
    for token, probability in expected.items():
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(counts[token] - draws * probability) < 4 * deviation


def test_penalise_matches_the_definition_and_counts_each_token_once() -> None:
    logits = np.array([2.0, -2.0, 1.0], np.float32)
    assert penalise(logits, [0, 0, 1], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0]


def test_the_penalty_looks_only_at_its_window() -> None:
    logits = np.array([2.0, 1.9], np.float32)
    assert Sampler(Sampling(repetition_penalty=2, repetition_window=2)).choose(logits, [0, 1]) == 0
    assert Sampler(Sampling(repetition_penalty=2, repetition_window=2)).choose(logits, [1, 0]) == 0
    near = Sampling(repetition_penalty=2, repetition_window=1)
    assert Sampler(near).choose(logits, [1, 0]) == 1
    assert Sampler(near).choose(logits, [0, 1]) == 0
    assert Sampler(replace(near, repetition_window=0)).choose(logits, [0]) == 0


def test_greedy_takes_the_first_of_the_best() -> None:
    assert Sampler(Sampling()).choose(np.array([0, 3, 3, 1], np.float32), []) == 1


@pytest.mark.parametrize("temperature", [1e-5, 1e-7, 1e-50])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([0, 3, 2.9, 1], np.float32)
    assert Sampler(Sampling(temperature=temperature)).choose(logits, []) == 1


def test_one_seed_gives_one_answer() -> None:
    rows = RANDOM.normal(size=(50, 300)).astype(np.float32)

    def answer(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(row, []) for row in rows]

    assert answer(5) == answer(5)
    assert answer(5) != answer(6)
    assert answer(None) != answer(None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_that_is_no_number_is_an_error(bad: float, temperature: float) -> None:
    logits = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(InputError, match="not a finite number"):
        Sampler(Sampling(temperature=temperature)).choose(logits, [])


def test_a_masked_token_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    sampler = Sampler(Sampling(temperature=5.0, seed=0))
    assert {sampler.choose(logits, []) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0}, {"temperature": -0.1}, {"temperature": math.nan},
        {"temperature": math.inf}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1},
        {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": 1.5}, {"repetition_penalty": 0.0},
        {"repetition_window": -1}, {"seed": -1}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Sampler(Sampling(**wrong))  # type: ignore[arg-type]
    assert next(iter(wrong)) in caught.value.message.replace("stop text", "stop")


def test_a_large_vocabulary_costs_little() -> None:
    logits = (RANDOM.normal(size=151_936) * 3).astype(np.float32)

    def best_ms(sampling: Sampling) -> float:
        sampler, times = Sampler(sampling), []
        for _ in range(7):
            start = time.thread_time()
            sampler.choose(logits, range(100))
            times.append(time.thread_time() - start)
        return min(times) * 1000

    assert best_ms(Sampling()) < 2
    full = Sampling(temperature=0.7, top_k=40, top_p=0.95, min_p=0.05, repetition_penalty=1.1)
    assert best_ms(full) < 20
    assert best_ms(Sampling(temperature=0.7, top_p=0.95)) < 20
