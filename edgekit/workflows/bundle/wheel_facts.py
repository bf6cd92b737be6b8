"""What a wheel says about itself: name, version, licence, dependencies, the glibc it needs.

Reads the zip's directory and METADATA; installs nothing and runs nothing.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import TypeVar

from edgekit.errors import InputError

MAX_METADATA_BYTES = 4 << 20
MAX_LICENCE_BYTES = 4 << 20
_GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_MANYLINUX = {"manylinux1_": (2, 5), "manylinux2010_": (2, 12), "manylinux2014_": (2, 17)}
_LICENCE_NAME = re.compile(
    r"(third.?party.?)?(licen[cs]es?|copying|notices?|copyright)([._-]\w+)*(\.(txt|md|rst))?",
    re.IGNORECASE,
)
_CODE = (".py", ".pyi", ".pyc", ".json", ".h", ".so")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """The facts of one wheel.

    `licence` is an SPDX expression if `licence_is_spdx`, else the text that the wheel gives, or
    empty. `requires` are canonical names, without those that only an extra asks for.
    `unpacked_bytes` is the sum of its files.
    """

    path: Path
    name: str
    version: str
    licence: str
    licence_is_spdx: bool
    requires: tuple[str, ...]
    glibc: tuple[int, int]
    unpacked_bytes: int

    @property
    def label(self) -> str:
        """Return `name-version`, as folders are called."""
        return f"{self.name}-{self.version}"


def read_wheel(path: Path) -> WheelFacts:
    """Return the facts of a wheel. Raises InputError."""
    return _with_wheel(path, lambda archive: _facts(path, archive))


def record_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a wheel's RECORD, which has the hash of all else in it.

    Raises InputError.
    """
    return _with_wheel(path, _record_sha256)


def licence_texts(path: Path) -> list[tuple[str, bytes]]:
    """Return the licence files of a wheel, each with a name of its own. Raises InputError."""
    return _with_wheel(path, _licences)


def canonical(name: str) -> str:
    """Return a distribution's name as indexes compare it: lower case, dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def least_glibc(filename: str) -> tuple[int, int]:
    """Return the glibc that a wheel needs by the platform tags in its name; (0, 0): none."""
    tags = filename.removesuffix(".whl").split("-")[-1].split(".")
    floors = [(int(m[1]), int(m[2])) for tag in tags if (m := _GLIBC.match(tag))]
    floors += [
        floor for tag in tags for old, floor in _OLD_MANYLINUX.items() if tag.startswith(old)
    ]
    return min(floors, default=(0, 0))


def _record_sha256(archive: zipfile.ZipFile) -> str:
    records = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", n)]
    if len(records) != 1:
        raise InputError(f"the wheel {archive.filename} has {len(records)} RECORDs, not one")
    return hashlib.sha256(archive.read(records[0])).hexdigest()


def _with_wheel(path: Path, read: Callable[[zipfile.ZipFile], Found]) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            return read(archive)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, UnicodeError) as error:
        raise InputError(f"{path.name} cannot be read as a wheel: {error}") from error


def _facts(path: Path, archive: zipfile.ZipFile) -> WheelFacts:
    metadata = next(
        (i for i in archive.infolist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", i.filename)),
        None,
    )
    if metadata is None or metadata.file_size > MAX_METADATA_BYTES:
        raise InputError(f"{path.name} is no wheel: it has no METADATA of a sensible size")
    headers = HeaderParser().parsestr(archive.read(metadata).decode("utf-8"))
    if not headers["Name"] or not headers["Version"]:
        raise InputError(f"{path.name}: METADATA names no project and version")
    expression = headers["License-Expression"] or ""
    return WheelFacts(
        path=path,
        name=canonical(headers["Name"]),
        version=headers["Version"],
        licence=expression or _licence_name(headers["License"], headers.get_all("Classifier", [])),
        licence_is_spdx=bool(expression),
        requires=_requires(headers.get_all("Requires-Dist", [])),
        glibc=least_glibc(path.name),
        unpacked_bytes=sum(item.file_size for item in archive.infolist()),
    )


def _licence_name(stated: str | None, classifiers: Sequence[str]) -> str:
    """Return the licence field if it is a name and no text, else what the classifiers say."""
    if stated and len(stated) <= 60 and "\n" not in stated.strip():
        return stated.strip()
    named = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: ")]
    return " and ".join(named)


def _requires(lines: Sequence[str]) -> tuple[str, ...]:
    names = set()
    for line in lines:
        match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
        if match and not re.search(r";.*\bextra\s*==", line):
            names.add(canonical(match[0]))
    return tuple(sorted(names))


def _licences(archive: zipfile.ZipFile) -> list[tuple[str, bytes]]:
    """Return the files that dist-info calls licences, and any other called like one.

    Some wheels keep theirs beside the code instead.
    """
    texts: dict[str, bytes] = {}
    for item in sorted(archive.infolist(), key=lambda item: item.filename):
        path = PurePosixPath(item.filename)
        declared = path.parts[0].endswith(".dist-info") and "licenses" in path.parts[1:-1]
        called = _LICENCE_NAME.fullmatch(path.name) and path.suffix not in _CODE
        wanted = declared or called
        if wanted and not item.is_dir() and item.file_size <= MAX_LICENCE_BYTES:
            # One flat folder: what the path has below the package makes the name.
            below = [part for part in path.parts[1:] if part != "licenses"]
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(below)).strip(".-") or "LICENSE"
            texts.setdefault(name, archive.read(item))
    return list(texts.items())
