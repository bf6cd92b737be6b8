"""The sampling values that a user sets: what each means, and how it is read.

The form and `/set NAME VALUE` share it. It knows no engine; what a value may be is written in
`runtimes.sampling_ranges`.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import Any

from edgekit.errors import UsageError
from runtimes.base import Sampling
from runtimes.sampling_ranges import RANGES, Number

LONGEST_VALUE = 40  # characters; no number that means anything is longer
NO_SEED = ("", "none", "random")


@dataclass(frozen=True, slots=True)
class Field:
    """A value of `Sampling`. `or_else` is what may be written instead of a number, in words."""

    name: str
    meaning: str
    is_whole: bool = False
    or_else: str = ""

    @property
    def allowed(self) -> str:
        """Return the range in words."""
        return RANGES[self.name].words + self.or_else

    def is_allowed(self, value: Number) -> bool:
        """Return whether `value` is in the range."""
        return RANGES[self.name].allows(value)


FIELDS = (
    Field("max_tokens", "the longest an answer may get, in tokens", is_whole=True),
    Field("temperature", "how freely tokens are drawn; 0: the likeliest"),
    Field("top_k", "draw from the K likeliest tokens; 0: from all", is_whole=True),
    Field("top_p", "draw from the likeliest share P; 1: from all"),
    Field("min_p", "leave out below P of the likeliest; 0: off"),
    Field("repetition_penalty", "above 1: repeat less; 1: off"),
    Field("seed", "same seed, same draws; empty: a new one", is_whole=True, or_else=", or empty"),
)
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
