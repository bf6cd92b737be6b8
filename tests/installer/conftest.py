"""A folder in memory where there is one: these tests kill programs, not the power.

The installer flushes a whole file system, and on a machine that others write on that is slow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """Return a new folder for the tests of one module."""
    with _folder() as folder:
        yield Path(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a new folder for one test."""
    with _folder() as folder:
        yield Path(folder)


def _folder() -> tempfile.TemporaryDirectory[str]:
    usable = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 200_000_000
    return tempfile.TemporaryDirectory(prefix="edgekit-", dir=MEMORY if usable else None)
