"""What a search tries: keys of the configuration, each with choices or a range of values.

It reads the section `[search]` strictly, and knows neither Optuna nor how a trial is run. Whether
the configuration accepts a value is asked of whoever reads the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.errors import InputError

Value = int | float | str | bool
Sampler = Literal["tpe", "random", "grid"]

Complain = Callable[[str, str], InputError]
"""Makes the error for a key of `[search.space]`; what is wrong, as the end of a sentence."""

Accept = Callable[[str, Value], str]
"""Says in words why the configuration refuses a value of a dotted key; nothing where it does not"""

COMPARED = "trials could not be compared: it decides what they are judged by"
REFUSED_SECTIONS = {
    "model": COMPARED, "data": COMPARED, "evaluate": COMPARED, "search": "it is the search itself",
}  # fmt: skip
REFUSED_KEYS = {
    "train.seed": "all trials have the same, so that luck decides nothing",
    "train.save_seconds": "it does not change what comes out",
}
EMPTY_SPACE = 'is missing or empty: name a key, as in "train.learning_rate" = {choices = [1e-4]}'
RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these values."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A value from `low` to `high`, both included: a whole number if both are, in steps of `step`
    if there is one. `log`: even on a logarithmic scale."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Return whether only whole numbers are meant."""
        return type(self.low) is int and type(self.high) is int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A key that is searched over; `name` is dotted: `train.learning_rate`."""

    name: str
    domain: Choices | Range

    @property
    def first(self) -> Value:
        """Return one of its values."""
        return self.domain.values[0] if isinstance(self.domain, Choices) else self.domain.low


@dataclass(frozen=True, slots=True)
class SearchSection:
    """`[search]`: which settings are tried, and how they are chosen.

    It ends after `trials`, of all processes together, or when `minutes` of the command are over;
    a grid ends by itself. `pruner`: a trial that does worse than the median of the others ends
    early.
    """

    sampler: Sampler = "tpe"
    trials: int | None = None
    minutes: float | None = None
    pruner: bool = True
    space: tuple[Parameter, ...] = ()


def read_space(
    values: Mapping[str, Any], sampler: Sampler, complain: Complain, accept: Accept
) -> tuple[Parameter, ...]:
    """Return the parameters that `[search.space]` names. Raises InputError for what is wrong."""
    found = tuple(
        Parameter(name, _domain(name, entry, complain))
        for name, entry in _flattened(values).items()
    )
    for parameter in found:
        _check(parameter, complain, accept)
        if sampler == "grid" and isinstance(parameter.domain, Range):
            raise complain(parameter.name, "is a range, and a grid needs choices = [...]")
    return found


def _flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries by their dotted names: without quotes, TOML reads a dot as a table."""
    found: dict[str, Any] = {}
    for name, entry in values.items():
        nested = isinstance(entry, dict) and entry and "." not in name
        if nested and all(isinstance(inner, dict) for inner in entry.values()):
            found |= {f"{name}.{key}": inner for key, inner in entry.items()}
        else:
            found[name] = entry
    return found


def _domain(name: str, entry: Any, complain: Complain) -> Choices | Range:
    if not isinstance(entry, dict):
        raise complain(name, f"is {entry!r:.60}, not {{low = ..., high = ...}} or {{choices = []}}")
    for key in entry:
        if key not in (*RANGE_KEYS, "choices"):
            raise complain(name, f"has the unknown key {key!r:.60}: known: low, high, log, step, "
                                 "choices")  # fmt: skip
    if "choices" not in entry:
        return _range(name, entry, complain)
    if len(entry) > 1:
        raise complain(name, "has choices, and a range beside them: give one of the two")
    return _choices(name, entry["choices"], complain)


def _choices(name: str, values: Any, complain: Complain) -> Choices:
    if not isinstance(values, list) or not values:
        raise complain(name, f"has choices that are {values!r:.60}, not a list of values")
    for value in values:
        if not isinstance(value, Value) or (isinstance(value, float) and not math.isfinite(value)):
            raise complain(name, f"has the choice {value!r:.60}, not a number, a text or a truth")
    if len(set(values)) < len(values):
        raise complain(name, f"has a choice twice in {values!r:.60}")
    return Choices(tuple(values))


def _range(name: str, entry: Mapping[str, Any], complain: Complain) -> Range:
    for key in ("low", "high"):
        if key not in entry:
            raise complain(name, f"has no {key}")
    for key in ("low", "high", "step"):
        value = entry.get(key, 1)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise complain(name, f"has {key} = {value!r:.60}, not a number")
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if type(log) is not bool:
        raise complain(name, f"has log = {log!r:.60}, not true or false")
    if not low < high:
        raise complain(name, f"goes from low = {low} to high = {high}, which is not above it")
    if log and (low <= 0 or step is not None):
        why = "a step" if step is not None else f"low = {low}, which is not above 0"
        raise complain(name, f"has log = true with {why}")
    if step is not None and not _reaches(low, high, step):
        raise complain(name, f"goes from {low} in steps of {step}, which do not lead to {high}")
    whole = all(type(number) is int for number in (low, high, step) if number is not None)
    kind = int if whole else float
    return Range(kind(low), kind(high), log, None if step is None else kind(step))


def _reaches(low: float, high: float, step: float) -> bool:
    steps = (high - low) / step if step > 0 else 0.0
    return steps >= 1 and math.isclose(steps, round(steps), rel_tol=1e-9)


def _check(parameter: Parameter, complain: Complain, accept: Accept) -> None:
    """Raise InputError if the parameter may not be searched over, or a value of it is refused."""
    name, domain = parameter.name, parameter.domain
    section = name.partition(".")[0]
    why = REFUSED_SECTIONS.get(section) or REFUSED_KEYS.get(name)
    if why is not None:
        raise complain(name, f"cannot be searched over: {why}")
    for value in domain.values if isinstance(domain, Choices) else (domain.low, domain.high):
        refused = accept(name, value)
        if refused:
            raise complain(name, f"is refused with {value!r:.60}: {refused}")


def size(space: tuple[Parameter, ...]) -> int | None:
    """Return how many different settings `space` has; None where there is no end of them."""
    count = 1
    for parameter in space:
        domain = parameter.domain
        if isinstance(domain, Choices):
            count *= len(domain.values)
        elif domain.step is not None or domain.whole:
            count *= round((domain.high - domain.low) / (domain.step or 1)) + 1
        else:
            return None
    return count
