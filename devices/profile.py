"""DeviceProfile: what a kind of machine can do, read from a TOML file.

The folder `profiles/` is the list of known devices, and a path to a file of one's own is a
profile like any other. Units are in the names; every bandwidth says where its figure is from.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgekit.errors import InputError

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Facts of a machine, and what an answer on it should reach.

    `usable_memory_bytes` is what the system leaves. `memory_bandwidth_gb_per_s` is what a program
    can read, not the sum on the data sheet. Budgets of 0 ask for nothing.
    """

    name: str
    title: str
    machine: str
    platform_tags: tuple[str, ...]
    cpu_features: tuple[str, ...]
    cores: int
    usable_memory_bytes: int
    memory_bandwidth_gb_per_s: float
    memory_bandwidth_source: str
    engines: tuple[str, ...]
    budget_ttft_s: float = 0.0
    budget_tokens_per_s: float = 0.0
    budget_peak_memory_bytes: int = 0


def names() -> list[str]:
    """Return the names of the profiles that edgekit brings."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """Return a profile by its name, or from a TOML file.

    Raises InputError that names the file, the key and the nearest known key.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = PROFILES / f"{name_or_path}.toml"
        if name_or_path not in names():
            raise InputError(
                f"there is no device '{name_or_path}'", _nearest(name_or_path, names())
            )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return _profile(values, path)


def _profile(values: dict[str, Any], path: Path) -> DeviceProfile:
    values.setdefault("name", path.stem)
    known = {field.name: field for field in fields(DeviceProfile)}
    for key in values:
        if key not in known:
            raise InputError(f"{path}: unknown key '{key}'", _nearest(key, list(known)))
    converted = {key: _convert(path, key, value) for key, value in values.items()}
    try:
        return DeviceProfile(**converted)
    except TypeError as error:
        raise InputError(f"{path}: {error}".replace("DeviceProfile.__init__()", "it is")) from error


def _convert(path: Path, key: str, value: Any) -> Any:
    """Return a TOML value as the field's type; a list becomes a tuple of strings."""
    wanted = {field.name: str(field.type) for field in fields(DeviceProfile)}[key]
    if wanted.startswith("tuple") and isinstance(value, list):
        return tuple(str(item) for item in value)
    if wanted == "float" and type(value) in (int, float) and value >= 0:
        return float(value)
    if (wanted == "int" and type(value) is int and value >= 0) or (
        wanted == "str" and isinstance(value, str)
    ):
        return value
    raise InputError(f"{path}: '{key}' should be {wanted}, it is {value!r:.80}")


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}"
