"""The sampling values as a user writes them, held against the rules of the engines."""

from __future__ import annotations

import pytest

from edgekit.errors import UsageError
from runtimes.base import Sampling
from runtimes.sampling import validate
from tui.sampling_settings import FIELDS, changed, shown

VALUES = ["-1", "0", "1", "2", "0.5", "1.0001", "-0.5", "1e-9", "1e400", "nan", "inf", "x", ""]


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
@pytest.mark.parametrize("text", VALUES)
def test_what_is_taken_is_what_the_engines_take(name: str, text: str) -> None:
    kind = float if isinstance(getattr(Sampling(), name), float) else int
    try:
        value = None if name == "seed" and not text else kind(text)
        validate(Sampling(**{name: value}))
    except (ValueError, UsageError):
        with pytest.raises(UsageError, match=name):
            changed(Sampling(), name, text)
    else:
        assert getattr(changed(Sampling(), name, text), name) == value


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("top_p", "2", "top_p is 2, it should be above 0 and at most 1", ""),
        ("top_k", "0.5", "top_k is '0.5', it should be a whole number, 0 (off) or more", ""),
        ("min_p", "", "min_p is empty, it should be a number", ""),
        ("seed", "9" * 5000, "it should be a whole number", ""),
        ("temprature", "1", "there is no sampling value 'temprature'", "temperature"),
        ("colour", "1", "there is no sampling value 'colour'", "max_tokens, temperature"),
        ("stop", "x", "there is no sampling value 'stop'", ""),
    ],
)
def test_what_is_refused_says_what_would_do(name, text, message, hint) -> None:
    with pytest.raises(UsageError) as caught:
        changed(Sampling(), name, text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_names_and_seeds_may_be_written_freely() -> None:
    assert changed(Sampling(), "Top-K", " 40 ") == Sampling(top_k=40)
    assert changed(Sampling(seed=7), "seed", "random") == Sampling(seed=None)


def test_a_value_that_is_shown_is_read_back() -> None:
    sampling = Sampling(9, 0.1 + 0.2, 40, 0.95, 1e-05, 1.0, seed=12345678901)
    again = Sampling()
    for field in FIELDS:
        again = changed(again, field.name, shown(sampling, field.name))
    assert again == sampling
    assert [shown(Sampling(), field.name) for field in FIELDS] == [
        "512", "0", "0", "1", "0", "1", ""
    ]  # fmt: skip
