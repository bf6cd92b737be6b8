"""edgekit's own wheel, packed from the packages that are running: checkout or installed alike.

Needs no build tool, and the same files give the same bytes. A test compares it with what
hatchling builds from the checkout.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from edgekit.errors import InputError

PACKAGES = ("converters", "devices", "edgekit", "runtimes", "tui")
_WHEEL = "Wheel-Version: 1.0\nGenerator: edgekit bundle\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DIST_INFO_FILES = ("METADATA", "entry_points.txt")
_EARLIEST = (1980, 1, 1, 0, 0, 0)


def pack_own_wheel(folder: Path) -> Path:
    """Write the wheel of the running edgekit into `folder` and return its path.

    Raises InputError where the packages are not those of an installed edgekit.
    """
    distribution = _distribution()
    version = distribution.version
    dist_info = f"edgekit-{version}.dist-info"
    members = dict(_package_files())
    members |= dict(_dist_info_files(distribution, dist_info))
    members[f"{dist_info}/RECORD"] = _record(members, f"{dist_info}/RECORD")
    path = folder / f"edgekit-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            write_member(archive, name, data)
    return path


def write_member(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file without a trace of when and by whom: the same content gives the same bytes."""
    item = zipfile.ZipInfo(name, _EARLIEST)
    item.compress_type = zipfile.ZIP_DEFLATED
    item.external_attr = 0o100644 << 16
    item.create_system = 3  # Unix, wherever it is packed
    archive.writestr(item, data, compresslevel=9)


def _distribution() -> metadata.Distribution:
    try:
        return metadata.distribution("edgekit")
    except metadata.PackageNotFoundError as error:
        raise InputError(
            "edgekit is not installed, so that it cannot be packed",
            hint="pip install -e . in the checkout",
        ) from error


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Yield every file of the five packages, as they lie beside this module."""
    root = Path(__file__).parents[3]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            relative = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            if path.is_file() and not hidden and path.suffix not in (".pyc", ".pyo"):
                yield relative.as_posix(), path.read_bytes()


def _dist_info_files(
    distribution: metadata.Distribution, dist_info: str
) -> Iterator[tuple[str, bytes]]:
    for name in _DIST_INFO_FILES:
        text = distribution.read_text(name)
        if text is None:
            raise InputError(f"the installed edgekit has no {name}", hint="install it again")
        yield f"{dist_info}/{name}", text.encode()
    yield f"{dist_info}/WHEEL", _WHEEL.encode()
    for file in distribution.files or ():
        if file.parent.as_posix().endswith(".dist-info/licenses"):
            yield f"{dist_info}/licenses/{file.name}", file.read_binary()


def _record(members: dict[str, bytes], own_name: str) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for name, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(data)])
    writer.writerow([own_name, "", ""])
    return stream.getvalue().encode()
