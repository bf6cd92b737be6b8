"""The sampling values that a user sets: what each means, what it may be, and how it is read.

The form and `/set NAME VALUE` share it. It knows no engine: `runtimes.sampling.validate` has the
last word, and a test keeps the two together (importing that one costs numpy's 135 ms).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgekit.errors import UsageError
from runtimes.base import Sampling

Number = int | float
LONGEST_VALUE = 40  # characters; no number that means anything is longer
NO_SEED = ("", "none", "random")


@dataclass(frozen=True, slots=True)
class Field:
    """A value of `Sampling`. `allowed` is its range in words, `is_allowed` the same as a rule."""

    name: str
    meaning: str
    allowed: str
    is_allowed: Callable[[Number], bool]
    is_whole: bool = False


FIELDS = (
    Field("max_tokens", "the longest an answer may get, in tokens", "at least 1",
          lambda value: value >= 1, is_whole=True),
    Field("temperature", "how freely tokens are drawn; 0: the likeliest", "0 (greedy) or more",
          lambda value: value >= 0),
    Field("top_k", "draw from the K likeliest tokens; 0: from all", "0 (off) or more",
          lambda value: value >= 0, is_whole=True),
    Field("top_p", "draw from the likeliest share P; 1: from all", "above 0 and at most 1 (off)",
          lambda value: 0 < value <= 1),
    Field("min_p", "leave out below P of the likeliest; 0: off", "between 0 (off) and 1",
          lambda value: 0 <= value <= 1),
    Field("repetition_penalty", "above 1: repeat less; 1: off", "above 0; 1 is off",
          lambda value: value > 0),
    Field("seed", "same seed, same draws; empty: a new one", "0 or more, or empty",
          lambda value: value >= 0, is_whole=True),
)  # fmt: skip
BY_NAME = {field.name: field for field in FIELDS}


def changed(sampling: Sampling, name: str, value_text: str) -> Sampling:
    """Return `sampling` with the value called `name` read from `value_text`.

    Dashes and spaces in the name count as underscores. A seed may be "random". Raises UsageError
    that names the range, or the nearest name.
    """
    field = _find(name)
    text = value_text.strip()
    if field.name == "seed" and text.lower() in NO_SEED:
        return replace(sampling, seed=None)
    value = _number(field, text)
    if not field.is_allowed(value):
        raise UsageError(f"{field.name} is {text}, it should be {field.allowed}")
    values: dict[str, Any] = {field.name: value}
    return replace(sampling, **values)


def shown(sampling: Sampling, name: str) -> str:
    """Return the value called `name` as `changed` reads it back; an empty text for no seed."""
    value = getattr(sampling, name)
    if value is None:
        return ""
    return repr(value).removesuffix(".0")


def _find(name: str) -> Field:
    wanted = name.strip().lower().replace("-", "_").replace(" ", "_")
    if wanted in BY_NAME:
        return BY_NAME[wanted]
    near = difflib.get_close_matches(wanted, BY_NAME, 1)
    known = f"did you mean {near[0]}?" if near else f"there is: {', '.join(BY_NAME)}"
    raise UsageError(f"there is no sampling value '{name.strip()[:LONGEST_VALUE]}'", hint=known)


def _number(field: Field, text: str) -> Number:
    kind = "a whole number" if field.is_whole else "a number"
    try:
        if len(text) > LONGEST_VALUE:
            raise ValueError
        value: Number = int(text) if field.is_whole else float(text)
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, OverflowError):
        given = f"'{text[:LONGEST_VALUE]}'" if text else "empty"
        raise UsageError(f"{field.name} is {given}, it should be {kind}, {field.allowed}") from None
    return value
