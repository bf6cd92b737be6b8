"""Packing the wheel: the archive's Python files, the compiled libraries, METADATA and RECORD.

The same content gives the same bytes: fixed times and modes, sorted names.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.files import disk_errors
from edgekit.workflows.bundle.llama_wheel_targets import VERSION, WheelTarget

PACKAGE = "llama_cpp"
DIST_INFO = f"llama_cpp_python-{VERSION}.dist-info"
LIBRARIES = f"{PACKAGE}/lib"
EARLIEST = (1980, 1, 1, 0, 0, 0)
_DEFLATE_LEVEL = 9


def pack(
    source: Path,
    libraries: Sequence[Path],
    licences: Mapping[str, Path],
    target: WheelTarget,
    folder: Path,
) -> Path:
    """Write the wheel into `folder` and return its path.

    `source` is the unpacked archive, `licences` the texts of what the compiler linked in.
    """
    files = {name: path.read_bytes() for name, path in _members(source, libraries, licences)}
    files[f"{DIST_INFO}/WHEEL"] = _wheel_file(target).encode()
    files[f"{DIST_INFO}/RECORD"] = _record(files).encode()
    wheel = folder / target.filename
    with disk_errors(folder), zipfile.ZipFile(wheel, "w") as archive:
        for name in sorted(files, key=_place):
            archive.writestr(_entry(name), files[name], compresslevel=_DEFLATE_LEVEL)
    return wheel


def _members(
    source: Path, libraries: Sequence[Path], licences: Mapping[str, Path]
) -> list[tuple[str, Path]]:
    package = source / PACKAGE
    python = [
        path for path in package.rglob("*") if path.suffix == ".py" or path.name == "py.typed"
    ]
    texts = {
        "LICENSE.md": source / "LICENSE.md",
        "llama.cpp.txt": source / "vendor/llama.cpp/LICENSE",
        "nlohmann-json.txt": source / "vendor/llama.cpp/licenses/LICENSE-jsonhpp",
        **licences,
    }
    return [
        *((path.relative_to(source).as_posix(), path) for path in python),
        *((f"{LIBRARIES}/{path.name}", path) for path in libraries),
        *((f"{DIST_INFO}/licenses/{name}", path) for name, path in texts.items()),
        (f"{DIST_INFO}/METADATA", source / "PKG-INFO"),
    ]


def _wheel_file(target: WheelTarget) -> str:
    return f"Wheel-Version: 1.0\nGenerator: edgekit\nRoot-Is-Purelib: false\nTag: {target.tag}\n"


def _record(files: Mapping[str, bytes]) -> str:
    lines = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest())
        lines.append(f"{name},sha256={digest.rstrip(b'=').decode()},{len(files[name])}\n")
    return "".join(lines) + f"{DIST_INFO}/RECORD,,\n"


def _place(name: str) -> tuple[bool, str]:
    return name.startswith(DIST_INFO), name  # PEP 427: the dist-info last


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EARLIEST)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, also where it is packed elsewhere
    entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
    return entry
