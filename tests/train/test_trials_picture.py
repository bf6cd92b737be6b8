"""The picture of a search: outliers hide nothing, and no trials are no error."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from edgekit.train.search_space import Choices, Parameter, Range
from edgekit.train.study import Trial
from edgekit.train.trials_picture import _limits, draw_trials

SPACE = (
    Parameter("train.learning_rate", Range(1e-5, 1e-1, log=True)),
    Parameter("train.batch_tokens", Range(512, 4096, step=512)),
    Parameter("train.only", Choices(("norms", True, 8))),
)


def trial(number: int, figure: float | None, state: Any = "finished") -> Trial:
    only = ("norms", True, 8)[number % 3]
    rate = 10.0 ** (-1 - number % 4)
    values = {"train.learning_rate": rate, "train.batch_tokens": 512, "train.only": only}
    return Trial(number, state, values, figure)


def drawn(trials: list[Trial], before: float | None = 3.0) -> np.ndarray[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw_trials(trials, SPACE, "evaluation loss", before, "run: tpe")
    return np.asarray(matplotlib.image.imread(io.BytesIO(png), format="png"))


def test_one_that_is_far_off_does_not_flatten_the_others() -> None:
    good = [trial(n, 2 + n / 10) for n in range(9)]
    low, high = _limits([*good, trial(9, 800.0), trial(10, None, "diverged")], 3.0)
    assert low == pytest.approx(2 - 0.08 * 1.8, rel=0.1)
    assert 2.8 < high < 4.5
    assert _limits(good, 3.0) == pytest.approx((2 - 0.064, 2.8 + 0.064))


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(0, None, "diverged"), trial(1, None, "failed")],
        [trial(0, 2.0)],
        [trial(0, 2.0), trial(1, 2.0)],
        [trial(0, 2.5, "pruned"), trial(1, 2.0, "running"), Trial(2, "killed", {})],
    ],
)
def test_any_trials_can_be_drawn_as_a_tall_picture(trials: list[Trial]) -> None:
    height, width, _ = drawn(trials).shape
    assert width == 780
    assert height > 1.5 * width


@pytest.mark.slow
def test_a_better_trial_changes_the_picture() -> None:
    trials = [trial(n, 2 + n / 10) for n in range(5)]
    one, two = drawn(trials), drawn([*trials[:4], trial(4, 1.9)])
    assert one.shape == two.shape
    assert (one != two).any()
    assert (drawn(trials) == one).all()
