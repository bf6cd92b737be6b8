"""Fields: typed values out of one JSON object that came from outside. It knows no document."""

from __future__ import annotations

import math
from typing import Any

from edgekit.errors import InputError


class Fields:
    """Takes typed values out of one JSON object; names the key in every complaint."""

    def __init__(self, values: Any, where: str) -> None:
        """`where` names the document. Raises InputError if `values` is not an object."""
        if not isinstance(values, dict):
            raise InputError(f"{where} is not a JSON object")
        self._values = values
        self.where = where

    def has(self, key: str) -> bool:
        """Return whether `key` is there and not null."""
        return self._values.get(key) is not None

    def take(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """Return the value of `key`, which must be of `kind`. Raises InputError."""
        value = self._values.get(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        right = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if not right:
            wanted = " or ".join(k.__name__ for k in kinds)
            raise InputError(f"{self.where}: '{key}' should be {wanted}, it is {value!r:.80}")
        return value

    def number(self, key: str) -> float:
        """Return a number that is neither infinite nor "not a number". Raises InputError."""
        value = float(self.take(key, (float, int)))
        if not math.isfinite(value):
            raise InputError(f"{self.where}: '{key}' is {value}, which is no measured figure")
        return value

    def count(self, key: str) -> int:
        """Return a whole number from 0 to 2**63. Raises InputError."""
        value = self.take(key, int)
        if not 0 <= value < 2**63:
            raise InputError(f"{self.where}: '{key}' is {value}, which is not a possible count")
        return int(value)

    def strings(self, key: str) -> dict[str, str]:
        """Return an object whose values are taken as text. Raises InputError."""
        value = self.take(key, dict)
        return {str(name): str(text) for name, text in value.items()}

    def figures(self, key: str) -> dict[str, float]:
        """Return an object of names and numbers. Raises InputError."""
        values = self.take(key, dict)
        inside = Fields(values, f"{self.where}: '{key}'")
        return {str(name): inside.number(name) for name in values}

    def objects(self, key: str) -> list[Fields]:
        """Return the objects of a list, none where `key` is absent. Raises InputError."""
        if not self.has(key):
            return []
        return [Fields(value, f"{self.where}: '{key}'") for value in self.take(key, list)]
