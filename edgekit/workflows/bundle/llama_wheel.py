"""llama-cpp-python as a wheel for another machine: built once here, kept in the cache.

PyPI has no wheel of it for any machine. This one carries a build of ggml's processor backend for
each generation of processors; the device picks among them (runtimes.cpu_variants). Knows nothing
of bundles.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from edgekit import store
from edgekit.errors import GateError, InputError, UsageError
from edgekit.files import file_lock, fsync_folder, make_folder, require_space
from edgekit.privacy.lock import refuse_network
from edgekit.progress import Progress
from edgekit.workflows.bundle.llama_wheel_build import COMPILER, OPTIONS, Build, Toolchain
from edgekit.workflows.bundle.llama_wheel_check import check
from edgekit.workflows.bundle.llama_wheel_pack import pack
from edgekit.workflows.bundle.llama_wheel_source import SDIST, fetch, unpack
from edgekit.workflows.bundle.llama_wheel_targets import TARGETS, WheelTarget

# Sources, zig's build of its C++ library for the target, and the objects.
BUILD_BYTES = 1_500_000_000
# Raise it when a wheel would come out different for a reason that `_key` does not see.
RECIPE = 1


def llama_wheel(machine: str, progress: Progress) -> Path:
    """Return the wheel for Linux on `machine` ("aarch64", "x86_64"), building it if need be.

    A build takes about ten minutes of processor time, all cores, at low priority; a second call
    takes the wheel from the cache and checks it again. Raises UsageError for another machine,
    MissingExtraError without the `bundle` extra, GateError (disk), InputError, PrivacyError.
    """
    target, tools = _target(machine), Toolchain.find()
    wheel = _place(target, tools)
    waiting = f"waiting for another process that builds llama.cpp for {machine}"
    with file_lock(wheel.parent.with_suffix(".lock"), lambda: progress.task(waiting, None)):
        if not _is_good(wheel, target):
            _make(wheel, target, tools, progress)
    return wheel


def cached_wheel(machine: str) -> Path | None:
    """Return the wheel if an earlier call built it, else None. Raises as `llama_wheel`."""
    target = _target(machine)
    wheel = _place(target, Toolchain.find())
    return wheel if _is_good(wheel, target) else None


def _target(machine: str) -> WheelTarget:
    if machine not in TARGETS:
        raise UsageError(
            f"llama.cpp cannot be built for '{machine}' here",
            hint=f"it can be built for Linux on {' and '.join(TARGETS)}",
        )
    return TARGETS[machine]


def _place(target: WheelTarget, tools: Toolchain) -> Path:
    folder = store.cache() / "wheels" / f"llama-{target.machine}-{_key(target, tools)}"
    return folder / target.filename


def _is_good(wheel: Path, target: WheelTarget) -> bool:
    try:
        check(wheel, target)
    except (InputError, GateError):
        return False
    return True


def _make(wheel: Path, target: WheelTarget, tools: Toolchain, progress: Progress) -> None:
    """Build the wheel beside its place and move it there once it has passed its check."""
    refuse_network(f"pip ({SDIST.filename})")
    work = wheel.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    make_folder(work)
    require_space(work, BUILD_BYTES)
    try:
        source = unpack(fetch(progress), work, target, progress)
        libraries = Build(source, work, target, tools).run(progress)
        packed = pack(source, libraries, tools.licences, target, work)
        check(packed, target)
        os.replace(packed, wheel)
        fsync_folder(wheel.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _key(target: WheelTarget, tools: Toolchain) -> str:
    """Return a name for everything that the wheel's content depends on."""
    variants = sorted(target.variants.items())
    recipe = [RECIPE, SDIST.sha256, target.tag, variants, sorted(OPTIONS.items()), COMPILER]
    facts = json.dumps([recipe, sorted(tools.versions.items())])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
