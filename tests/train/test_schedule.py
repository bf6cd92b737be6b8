"""The learning rate: up, and down to nothing by the end of the budget, whatever limits it."""

from __future__ import annotations

import pytest

from edgekit.train.schedule import Budget, learning_rate


def test_it_warms_up_and_decays_to_nothing() -> None:
    rates = [learning_rate(2.0, done / 1000) for done in range(1001)]
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.2)
    assert 40 <= peak <= 60
    assert rates[peak] == pytest.approx(2.0, rel=0.02)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[500] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0)


def test_the_budget_ends_at_what_comes_first() -> None:
    assert Budget(steps=10).done(5, 1e9) == 0.5
    assert Budget(minutes=2).done(10**9, 30) == 0.25
    assert Budget(steps=100, minutes=1).done(10, 45) == 0.75
    assert Budget(steps=10, minutes=1).done(20, 0) == 1.0
