"""Settings: typed, checked reads from a checkpoint's `config.json`.

A configuration comes from outside: every number is checked for type and range before anything
is computed from it. It knows no architecture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InputError

MAX_COUNT = 1 << 31


@dataclass(frozen=True, slots=True)
class Settings:
    """One JSON object of a configuration; `where` names it in error messages."""

    values: dict[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Return whether `key` is there and not null."""
        return self.values.get(key) is not None

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least 1. An absent key or a null gives `default`."""
        value = self._value(key, default)
        if type(value) is not int or not 1 <= value < MAX_COUNT:
            raise self.error(f"{key} is {value!r:.60}, not a whole number of at least 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0. An absent key or a null gives `default`."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.error(f"{key} is {value!r:.60}, not a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false. An absent key or a null gives `default`."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {value!r:.60}, not true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string. An absent key or a null gives `default`."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key} is {value!r:.60}, not a string")
        return value

    def section(self, key: str) -> Settings | None:
        """Return the object under `key`, or None where it is absent or null."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(f"{key} is {value!r:.60}, not an object")
        return Settings(value, f"{self.where}, {key}")

    def error(self, what: str, hint: str = "") -> InputError:
        """Return an error that names this configuration."""
        return InputError(f"{self.where}: {what}", hint)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"{key} is missing")
        return value
