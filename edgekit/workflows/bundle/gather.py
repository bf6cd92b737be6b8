"""All wheels of a bundle: the pinned ones, edgekit's own, and llama.cpp's where it is wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from edgekit.errors import InputError
from edgekit.progress import Progress
from edgekit.workflows.bundle.lock_files import needed, read_lock
from edgekit.workflows.bundle.own_wheel import pack_own_wheel
from edgekit.workflows.bundle.targets import Target
from edgekit.workflows.bundle.wheel_facts import WheelFacts, read_wheel
from edgekit.workflows.bundle.wheels import fetch

LLAMA = "llama-cpp-python"


def gather(
    target: Target,
    engines: Sequence[str],
    locks: Path,
    wheelhouse: Path | None,
    work: Path,
    progress: Progress,
) -> list[WheelFacts]:
    """Return every wheel for the chat and for `engines`, sorted by name.

    edgekit's own is packed into the folder `work`.

    Raises InputError, MissingExtraError, GateError, PrivacyError.
    """
    pinned = needed(read_lock(target.lock_file(locks)), engines)
    paths = fetch(pinned, target, wheelhouse, progress)
    if "gguf" in engines:
        paths.append(_llama(target, wheelhouse, progress))
    paths.append(pack_own_wheel(work))
    return sorted((read_wheel(path) for path in paths), key=lambda wheel: wheel.name)


def _llama(target: Target, wheelhouse: Path | None, progress: Progress) -> Path:
    """Return llama-cpp-python for the target: from the user's folder, or compiled here."""
    if wheelhouse is not None:
        found = sorted(wheelhouse.glob(f"llama_cpp_python-*manylinux*_{target.machine}.whl"))
        if found:
            return _checked(found[-1])
    from edgekit.workflows.bundle.llama_wheel import llama_wheel

    return _checked(llama_wheel(target.machine, progress))


def _checked(path: Path) -> Path:
    """Return `path` if it is the version that edgekit's engine is written for."""
    facts, pinned = read_wheel(path), _pinned_version()
    if (facts.name, facts.version) != (LLAMA, pinned):
        raise InputError(
            f"{path} is {facts.label}, and edgekit's engine is written for {LLAMA}-{pinned}",
            hint="remove it from the wheelhouse, or build that version",
        )
    return path


def _pinned_version() -> str:
    for line in metadata.requires("edgekit") or ():
        if match := re.match(rf"{LLAMA}==([0-9.]+)", line):
            return match[1]
    raise InputError("the installed edgekit pins no llama-cpp-python", "install it again")
