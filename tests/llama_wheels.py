"""Cross-compiled llama.cpp wheels for tests: built once, in minutes, and kept for boards too."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from edgekit.progress import NoProgress
from edgekit.workflows.bundle.llama_wheel import cached_wheel, llama_wheel
from tests.arm.packages import kept_home


def built_wheel(machine: str, *, build: bool = False) -> Path:
    """Return the wheel for `machine`. Without `build`, skip if no earlier test built it."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the extra 'bundle', which has the cross-compiler, is not installed")
    before = os.environ.get("EDGEKIT_HOME")
    os.environ["EDGEKIT_HOME"] = str(kept_home())
    try:
        if (kept := cached_wheel(machine)) is not None:
            return kept
        if not build:
            pytest.skip(
                f"no llama.cpp wheel for {machine} was built: "
                "EDGEKIT_TEST_EVERY_WHEEL=1 pytest -m arm builds it"
            )
        return llama_wheel(machine, NoProgress())
    finally:
        os.environ.pop("EDGEKIT_HOME")
        if before is not None:
            os.environ["EDGEKIT_HOME"] = before
