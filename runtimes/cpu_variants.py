"""Which build of ggml's processor backend to use here, and with how many threads.

A llama.cpp library can bring one backend file per generation of processors. ggml's own score says
which of them this processor can run, and which is probably the fastest; a measurement at first
start (runtimes.first_start) may say otherwise. That choice is a file of a few lines, which is
believed only on the processor and with the library that it was made for. Loads no model.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgekit import store
from edgekit.files import write_atomically

PREFIX, SUFFIX = "libggml-cpu-", ".so"
PATTERN = f"{PREFIX}*{SUFFIX}"
FILE_NAME = "engine.json"
SCHEMA = 1
MAX_FILE_BYTES = 1 << 16
MOST_THREADS = 1024
# What Linux must name in /proc/cpuinfo before a variant is used: ggml asks the processor only,
# and a system without support for the wide registers stops a program that uses them.
SYSTEM_MUST_KNOW = {
    "sandybridge": ("avx",),
    "haswell": ("avx", "avx2"),
    "alderlake": ("avx", "avx2"),
    "skylakex": ("avx", "avx2", "avx512f"),
    "icelake": ("avx", "avx2", "avx512f"),
    "zen4": ("avx", "avx2", "avx512f"),
}
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_PROCESSOR_KEYS = ("model name", "CPU implementer", "CPU architecture", "CPU variant", "CPU part")


@dataclass(frozen=True, slots=True)
class Variant:
    """A backend file that this processor can run; ggml prefers the highest score."""

    name: str
    path: Path
    score: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What to use on one processor with one library; the defaults leave everything as it is.

    `variant` is a name or empty, `broken` the variants that ended in an illegal instruction,
    `threads` the number per format ("gguf", "onnx").
    """

    variant: str = ""
    broken: tuple[str, ...] = ()
    threads: Mapping[str, int] = field(default_factory=dict)


def runnable(folder: Path) -> list[Variant]:
    """Return the variants in `folder` that this processor can run, ggml's favourite first.

    The library that they build on must be loaded. Files without a score are passed over.
    """
    found = []
    for path in sorted(folder.glob(PATTERN)):
        name = path.name.removeprefix(PREFIX).removesuffix(SUFFIX)
        if _system_allows(name) and (score := _score(path)) > 0:
            found.append(Variant(name, path, score))
    return sorted(found, key=lambda variant: -variant.score)


def pick(variants: list[Variant], choice: Choice, wanted: str | None = None) -> Variant | None:
    """Return `wanted` if it is among `variants`, else the chosen one, else ggml's favourite."""
    whole = [variant for variant in variants if variant.name not in choice.broken]
    by_name = {variant.name: variant for variant in variants}
    if wanted is not None:
        return by_name.get(wanted)
    if choice.variant in by_name and choice.variant not in choice.broken:
        return by_name[choice.variant]
    return whole[0] if whole else None


def default_state_file() -> Path:
    """Return where a choice is written: the user's own cache."""
    return store.cache() / FILE_NAME


def current_choice() -> Choice:
    """Return the choice for this processor: the user's, else the installation's, else none."""
    for path in (default_state_file(), Path(sys.prefix) / "share" / "edgekit" / FILE_NAME):
        if (choice := read_choice(path)) is not None:
            return choice
    return Choice()


def threads_for(format_: str) -> int | None:
    """Return the chosen number of threads for artifacts of `format_`, or None."""
    return current_choice().threads.get(format_)


def read_choice(path: Path) -> Choice | None:
    """Return the choice in the file `path`.

    None if there is none, if it is for another processor or library, or if it makes no sense: a
    choice is only about speed, so a bad one is no reason to stop.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            return None
        fields = json.loads(data)
        if fields["schema"] != SCHEMA or fields["made_for"] != made_for():
            return None
        return _checked(fields)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write_choice(path: Path, choice: Choice, measured: Mapping[str, Any]) -> None:
    """Write the choice, and what was `measured` for whoever wonders.

    Raises InputError or GateError if the file cannot be written.
    """
    fields = {
        "schema": SCHEMA,
        "made_for": made_for(),
        "variant": choice.variant,
        "broken": list(choice.broken),
        "threads": dict(choice.threads),
        "measured": measured,
    }
    write_atomically(path, (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode())


@cache
def made_for() -> str:
    """Return one line for this processor, what of it may be used, and the engines' versions."""
    from devices.detect import physical_cores

    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = [platform.machine(), *_processors(), f"{_hardware_capabilities():x}", f"{count} usable"]
    facts.append(f"{physical_cores()} cores")  # fewer under a control group's quota
    return "; ".join([*facts, *_versions()])


def _checked(fields: Mapping[str, Any]) -> Choice:
    """Return the choice in `fields`. Raises TypeError or ValueError if it makes no sense."""
    names = [fields["variant"], *fields["broken"]]
    if not all(isinstance(name, str) and re.fullmatch(r"[\w.]{0,64}", name) for name in names):
        raise ValueError("a variant's name is not a name")
    threads = dict(fields["threads"])
    if not all(type(n) is int and 1 <= n <= MOST_THREADS for n in threads.values()):
        raise ValueError("a number of threads is not one")
    return Choice(names[0], tuple(names[1:]), threads)


def _score(path: Path) -> int:
    """Return ggml's score of a backend file, 0 if it cannot run here. The file is let go again."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return 0
    try:
        function = library.ggml_backend_score
    except AttributeError:
        return 0
    else:
        function.restype = ctypes.c_int
        return int(function())
    finally:
        _ctypes.dlclose(library._handle)


def _system_allows(name: str) -> bool:
    needed = set(SYSTEM_MUST_KNOW.get(name, ()))
    return all(needed <= set(flags.split()) for flags in _cpuinfo().get("flags", ()))


def _processors() -> list[str]:
    """Return the kinds of processors in this machine, as Linux names them."""
    facts = _cpuinfo()
    kinds = [f"{key} {'/'.join(facts[key])}" for key in _PROCESSOR_KEYS if key in facts]
    flags = " ".join(sorted({*facts.get("flags", ()), *facts.get("Features", ())}))
    return [*kinds, hashlib.sha256(flags.encode()).hexdigest()[:8]]


@cache
def _cpuinfo() -> Mapping[str, tuple[str, ...]]:
    """Return the different values of each key of /proc/cpuinfo; empty where there is none."""
    found: dict[str, dict[str, None]] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), {})[value.strip()] = None
    return {key: tuple(sorted(values)) for key, values in found.items()}


def _hardware_capabilities() -> int:
    """Return the features that the kernel promises to programs, 0 where it has no such call."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError, TypeError):
        return 0
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(getauxval(_AT_HWCAP)) | int(getauxval(_AT_HWCAP2)) << 64


def _versions() -> list[str]:
    from importlib.metadata import PackageNotFoundError, version

    lines = []
    for package in ("llama-cpp-python", "onnxruntime"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"no {package}")
    return lines
