"""DeviceProfile: what a kind of machine can do, read from a TOML file.

The folder `profiles/` is the list of known devices, and a path to a file of one's own is a
profile like any other. Units are in the names, and every figure says where it is from: a file
with a figure that has no source is refused. `this` is the machine that runs this code (see
devices.this). It knows no model and no engine.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgekit.errors import InputError

PROFILES = Path(__file__).parent / "profiles"
THIS = "this"
MAX_PROFILE_BYTES = 1 << 20
# What a machine reaches, has or shall reach. The rest names things, and needs no source.
FIGURES = (
    "cores", "threads", "clusters", "cpu_features", "least_cpu_features", "memory_bytes",
    "usable_memory_bytes", "memory_bandwidth_gb_per_s", "compute_gflops", "glibc", "engines",
    "budget_ttft_s", "budget_tokens_per_s", "budget_peak_memory_bytes",
)  # fmt: skip
_INTEGERS = "tuple[int, int]"


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Facts of a machine, and what an answer on it should reach.

    `threads` is how many an engine should use, `clusters` describes the cores for people.
    `cpu_features` are spelt as in /proc/cpuinfo; `least_cpu_features` are those without which the
    wheels for it die with SIGILL. `glibc` is the version of the system's C library, (0, 0) where
    it is another one. `platform_tags` and `python_tags` are those of wheels, the best first.

    `usable_memory_bytes` is what the system leaves of `memory_bytes`. `memory_bandwidth_gb_per_s`
    is what decoding reads, not the sum on the data sheet. `compute_gflops` is what `threads`
    threads compute of a prompt in 8-bit GGUF weights (q8_0): a multiplication and an addition
    count as two. Budgets of 0 ask for nothing. `sources` says for each figure where it is from.
    """

    name: str
    title: str
    machine: str
    platform_tags: tuple[str, ...]
    cpu_features: tuple[str, ...]
    cores: int
    usable_memory_bytes: int
    memory_bandwidth_gb_per_s: float
    engines: tuple[str, ...]
    clusters: tuple[str, ...]
    threads: int
    memory_bytes: int
    compute_gflops: float
    python_tags: tuple[str, ...]
    glibc: tuple[int, int]
    least_cpu_features: tuple[str, ...]
    budget_ttft_s: float = 0.0
    budget_tokens_per_s: float = 0.0
    budget_peak_memory_bytes: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def memory_bandwidth_source(self) -> str:
        """Return where the figure of the memory bandwidth is from."""
        return self.sources["memory_bandwidth_gb_per_s"]


def names() -> list[str]:
    """Return the names of the profiles that edgekit brings, without `this`."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """Return a profile by its name, from a TOML file, or of this machine (`this`: measured now).

    Raises InputError that names the file, the key and the nearest known key.
    """
    if name_or_path == THIS:
        from devices.this import this_machine

        return this_machine()
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = PROFILES / f"{name_or_path}.toml"
        if name_or_path not in names():
            known = [THIS, *names()]
            raise InputError(f"there is no device '{name_or_path}'", _nearest(name_or_path, known))
    return _profile(_read(path), path)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, too many for a profile")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _profile(values: dict[str, Any], path: Path) -> DeviceProfile:
    values.setdefault("name", path.stem)
    known = [item.name for item in fields(DeviceProfile)]
    for key in values:
        if key not in known:
            raise InputError(f"{path}: unknown key '{key}'", _nearest(key, known))
    converted = {key: _convert(path, key, value) for key, value in values.items()}
    try:
        profile = DeviceProfile(**converted)
    except TypeError as error:
        raise InputError(f"{path}: {error}".replace("DeviceProfile.__init__()", "it is")) from error
    _check_sources(profile, path)
    _check_sense(profile, path)
    return profile


def _check_sources(profile: DeviceProfile, path: Path) -> None:
    """Refuse a figure without a source, and a source of nothing."""
    for key in profile.sources:
        if key not in FIGURES:
            raise InputError(
                f"{path}: [sources] names '{key}', which is no figure", _nearest(key, list(FIGURES))
            )
    for key in FIGURES:
        value = getattr(profile, key)
        given = any(value) if isinstance(value, tuple) else bool(value)
        if given and not profile.sources.get(key, "").strip():
            raise InputError(
                f"{path}: the figure '{key}' has no source",
                f'add {key} = "where it is from" to the table [sources]',
            )


def _check_sense(profile: DeviceProfile, path: Path) -> None:
    """Refuse figures that contradict each other or that an estimate would divide by."""
    for key in ("cores", "threads", "memory_bandwidth_gb_per_s", "compute_gflops"):
        if not 0 < getattr(profile, key) < 1e9:
            raise InputError(f"{path}: '{key}' is {getattr(profile, key)}, it must be positive")
    if not 0 < profile.usable_memory_bytes <= profile.memory_bytes:
        raise InputError(
            f"{path}: usable_memory_bytes is {profile.usable_memory_bytes}, "
            f"memory_bytes {profile.memory_bytes}: the one is a part of the other"
        )


def _convert(path: Path, key: str, value: Any) -> Any:
    """Return a TOML value as the field's type; a list becomes a tuple of strings."""
    wanted = {item.name: str(item.type) for item in fields(DeviceProfile)}[key]
    if wanted == _INTEGERS:
        if isinstance(value, list) and [type(item) for item in value] == [int, int]:
            return tuple(value)
    elif wanted.startswith("tuple") and _are_strings(value):
        return tuple(value)
    elif (
        wanted.startswith("Mapping") and isinstance(value, dict) and _are_strings([*value.values()])
    ):
        return value
    elif wanted == "float" and type(value) in (int, float) and 0 <= value < float("inf"):
        return float(value)
    elif (wanted == "int" and type(value) is int and 0 <= value < 2**63) or (
        wanted == "str" and isinstance(value, str)
    ):
        return value
    raise InputError(f"{path}: '{key}' should be {wanted}, it is {value!r:.80}")


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}"
