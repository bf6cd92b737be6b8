"""The rules of judging, with made-up figures worked out by hand."""

from __future__ import annotations

import pytest

from edgekit.workflows.latency import judge
from edgekit.workflows.latency.judge import Figure, Verdict

HOLDS, UNSURE, MISSED = Verdict.HOLDS, Verdict.UNSURE, Verdict.MISSED


@pytest.mark.parametrize(
    ("value", "doubt", "expected"),
    [
        (2.0, 0.0, HOLDS),
        (3.0, 0.0, HOLDS),  # exactly the budget is met
        (3.1, 0.0, MISSED),
        (2.0, 0.5, HOLDS),  # 1 to 3
        (2.1, 0.5, UNSURE),  # 1.05 to 3.15
        (5.9, 0.5, UNSURE),  # 2.95 to 8.85
        (6.1, 0.5, MISSED),  # 3.05 to 9.15
    ],
)
def test_a_time_of_at_most_three_seconds(value: float, doubt: float, expected: Verdict) -> None:
    assert judge.at_most(Figure(value, doubt, "predicted"), 3.0) is expected


@pytest.mark.parametrize(
    ("value", "doubt", "expected"),
    [
        (8.0, 0.0, HOLDS),
        (7.9, 0.0, MISSED),
        (10.0, 0.2, HOLDS),  # 8 to 12
        (9.0, 0.2, UNSURE),  # 7.2 to 10.8
        (6.7, 0.2, UNSURE),  # 5.36 to 8.04
        (6.0, 0.2, MISSED),  # 4.8 to 7.2
    ],
)
def test_a_speed_of_at_least_eight(value: float, doubt: float, expected: Verdict) -> None:
    assert judge.at_least(Figure(value, doubt, "predicted"), 8.0) is expected


def test_no_budget_asks_for_nothing() -> None:
    assert judge.at_most(Figure(1e9, 0.5, "predicted"), 0) is HOLDS
    assert judge.at_least(Figure(0.001, 0.5, "predicted"), 0) is HOLDS


def test_the_worst_verdict_counts() -> None:
    assert judge.worst([HOLDS, UNSURE, HOLDS]) is UNSURE
    assert judge.worst([UNSURE, MISSED, Verdict.IMPOSSIBLE]) is Verdict.IMPOSSIBLE
    assert judge.worst([]) is HOLDS


def test_roofline_share_is_bytes_a_second_over_bandwidth() -> None:
    # 145 MB in 10 ms is 14.5 GB/s, of 27 GB/s
    good = judge.roofline_share(145e6, 0.010, 27e9)
    assert good.value == pytest.approx(0.537, abs=0.001)
    assert good.holds
    assert not judge.roofline_share(145e6, 0.080, 27e9).holds  # scalar kernels
    assert not judge.roofline_share(145e6, 0.004, 27e9).holds  # faster than memory: a wrong clock


def test_weights_widened_to_sixteen_bits_are_noticed() -> None:
    int4_bytes, as_half = 92e6, 2 * 134.5e6
    assert judge.bytes_touched(1.39 * int4_bytes, int4_bytes).holds
    assert not judge.bytes_touched(as_half, int4_bytes).holds
    assert not judge.bytes_touched(0.5 * int4_bytes, int4_bytes).holds


def test_peak_is_held_to_the_uncertainty_of_the_plan() -> None:
    planned = Figure(200e6, 0.05, "predicted")
    assert judge.peak_against_plan(209e6, planned).holds
    assert not judge.peak_against_plan(211e6, planned).holds
    assert not judge.peak_against_plan(189e6, planned).holds


def test_thrashing_is_noticed_and_cold_caches_are_not() -> None:
    assert judge.same_work(0.0187, 0.0110).holds
    assert not judge.same_work(0.110, 0.0110).holds


def test_a_limit_that_was_not_kept_is_noticed() -> None:
    assert judge.within_share(0.26, 0.25).holds
    assert judge.within_share(0.10, 0.25).holds  # others took the rest
    assert not judge.within_share(0.50, 0.25).holds


def test_a_ratio_says_both_numbers() -> None:
    assert str(judge.within_share(0.5, 0.25)) == (
        "limit kept 2.000 is not in 0.00 to 1.20: processor time taken over processor time allowed"
    )
