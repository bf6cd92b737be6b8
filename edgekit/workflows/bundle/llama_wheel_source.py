"""The source of llama-cpp-python: fetched by pip, pinned by hash, unpacked, its variants chosen.

The user's own pip settings decide from where. llama.cpp's source lies inside it.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit import store
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.files import disk_errors, make_folder, sha256_file
from edgekit.progress import Progress
from edgekit.workflows.bundle.llama_wheel_targets import VERSION, WheelTarget
from edgekit.workflows.sources.base import growing
from edgekit.workflows.sources.pip_download import pip_download, wrong_content


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source archive: its file name, size in bytes and SHA-256."""

    name: str
    version: str
    filename: str
    bytes: int
    sha256: str


SDIST = Sdist(
    name="llama-cpp-python",
    version=VERSION,
    filename="llama_cpp_python-0.3.36.tar.gz",
    bytes=76_589_250,
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
)
GGML_BUILD_FILE = Path("vendor/llama.cpp/ggml/src/CMakeLists.txt")
# This line opens the list of all of ggml's variants. Ours takes its place.
_LIST_BEGINS = "\nif (GGML_CPU_ALL_VARIANTS)\n"


def fetch(progress: Progress) -> Path:
    """Return the archive in the cache, fetched if it is not there. Raises InputError, GateError."""
    kept = store.cache() / "sources" / SDIST.sha256 / SDIST.filename
    if kept.is_file() and sha256_file(kept) == SDIST.sha256:
        return kept
    make_folder(kept.parent)
    with disk_errors(kept.parent), tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        work = Path(folder)
        label = f"downloading the source of {SDIST.name} {SDIST.version}"
        with growing(progress, label, SDIST.bytes, lambda: _largest(work)):
            fetched = _fetch(work)
        os.replace(fetched, kept)
    return kept


def unpack(archive: Path, work: Path, target: WheelTarget, progress: Progress) -> Path:
    """Unpack the archive below `work` and return its root, with `target`'s variants chosen."""
    try:
        with (
            progress.task(f"unpacking {archive.name}", None),
            disk_errors(work),
            tarfile.open(archive, "r:gz") as opened,
        ):
            opened.extractall(work, filter="data")
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"{archive} cannot be unpacked: {error}") from error
    source = work / archive.name.removesuffix(".tar.gz")
    choose_variants(source / GGML_BUILD_FILE, target)
    return source


def choose_variants(build_file: Path, target: WheelTarget) -> None:
    """Make ggml's build file build exactly `target`'s variants. Raises InputError."""
    text = build_file.read_text(encoding="utf-8")
    if text.count(_LIST_BEGINS) != 1:
        raise InputError(f"{build_file} has no list of processor variants where it is expected")
    ours = "".join(
        f"    ggml_add_cpu_backend_variant({' '.join((name, *features))})\n"
        for name, features in target.variants.items()
    )
    replaced = text.replace(_LIST_BEGINS, f"{_LIST_BEGINS}{ours}elseif (FALSE)\n")
    build_file.write_text(replaced, encoding="utf-8")


def _fetch(work: Path) -> Path:
    """Let pip fetch the archive into `work` and return its path."""
    # pip asks the archive for its metadata, which its build backend must answer: the installed
    # one, so that nothing is fetched that no hash pins.
    need("scikit_build_core", "bundle")
    pinned = f"{SDIST.name}=={SDIST.version} --hash=sha256:{SDIST.sha256}"
    options = ["--no-build-isolation", f"--no-binary={SDIST.name}"]
    pip_download(f"the source of {SDIST.name} {SDIST.version}", [pinned], options, work, work)
    fetched = work / SDIST.filename
    if not fetched.is_file() or sha256_file(fetched) != SDIST.sha256:
        raise wrong_content(SDIST.filename)
    shutil.rmtree(work / "tmp", ignore_errors=True)
    return fetched


def _largest(folder: Path) -> int:
    """Return the size of the largest file below `folder`; pip makes and removes folders there."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest
