"""What a library file asks of the device, read from the file: and whether our wheel keeps its tag.

Reads ELF in plain Python, so that a wheel for any machine can be checked on any machine.
Source of the format: the System V ABI and the Linux Standard Base (symbol versions).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import GateError, InputError
from edgekit.workflows.bundle.llama_wheel_pack import DIST_INFO, LIBRARIES
from edgekit.workflows.bundle.llama_wheel_targets import GLIBC, WheelTarget

# glibc's own parts, that every system with a C library has (manylinux policy, PEP 600).
ALLOWED_PARTS = (
    "libc",
    "libm",
    "libdl",
    "libpthread",
    "librt",
    "ld-linux-aarch64",
    "ld-linux-x86-64",
)
MAX_LIBRARY_BYTES = 64 << 20
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NEED, _NEED_AUX = struct.Struct("<HHIII"), struct.Struct("<IHHII")
_DYNAMIC, _VERSION_NEEDS = 6, 0x6FFFFFFE
_TAG_NEEDED, _TAG_RUNPATH = 1, 29


@dataclass(frozen=True, slots=True)
class LibraryNeeds:
    """The machine's ELF number; the files and the symbol versions that the library asks for."""

    machine: int
    files: tuple[str, ...]
    versions: tuple[str, ...]
    search_path: str

    @property
    def glibc(self) -> tuple[int, int]:
        """Return the least glibc with all of these symbols, (0, 0) if it needs none."""
        found = (re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", text) for text in self.versions)
        return max(((int(m[1]), int(m[2])) for m in found if m), default=(0, 0))


def library_needs(data: bytes, name: str) -> LibraryNeeds:
    """Return what the 64-bit ELF file `data` needs. Raises InputError if it cannot be read."""
    try:
        return _read(data)
    except (struct.error, IndexError, ValueError) as error:
        raise InputError(f"{name} is no 64-bit ELF library: {error}") from error


def _read(data: bytes) -> LibraryNeeds:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it does not begin like one")
    (machine,) = struct.unpack_from("<H", data, 18)
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [_SECTION.unpack_from(data, table + size * index) for index in range(count)]
    files: list[str] = []
    versions: list[str] = []
    search_path = ""
    for _, kind, _, _, offset, length, link, info, _, _ in sections:
        if kind == _DYNAMIC:
            for tag, value in struct.iter_unpack("<QQ", data[offset : offset + length]):
                if tag == _TAG_NEEDED:
                    files.append(_text(data, sections[link][4] + value))
                elif tag == _TAG_RUNPATH:
                    search_path = _text(data, sections[link][4] + value)
        elif kind == _VERSION_NEEDS:
            versions += _versions(data, offset, info, sections[link][4])
    return LibraryNeeds(machine, tuple(files), tuple(versions), search_path)


def _versions(data: bytes, offset: int, count: int, strings: int) -> list[str]:
    """Return the names of a version-needs section: `count` files, each with a chain of names."""
    names = []
    for _ in range(count):
        _, auxiliaries, _, first, step = _NEED.unpack_from(data, offset)
        place = offset + first
        for _ in range(auxiliaries):
            _, _, _, name, following = _NEED_AUX.unpack_from(data, place)
            names.append(_text(data, strings + name))
            place += following
        offset += step
    return names


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("ascii")


def check(wheel: Path, target: WheelTarget) -> None:
    """Raise InputError or GateError unless the wheel is whole and its libraries keep its tag."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            _check_record(archive, wheel)
            files = {name: archive.read(f"{LIBRARIES}/{name}") for name in target.libraries}
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, NotImplementedError) as error:
        raise InputError(f"{wheel} is no whole wheel of llama.cpp: {error}") from error
    for name, data in files.items():
        _check_library(data, name, target)


def _check_record(archive: zipfile.ZipFile, wheel: Path) -> None:
    """Compare every file with its hash in RECORD, and the names on both sides."""
    record = f"{DIST_INFO}/RECORD"
    rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
    if sorted(archive.namelist()) != sorted(row[0] for row in rows):
        raise InputError(f"{wheel} does not hold the files that its RECORD lists")
    for name, digest, _ in rows:
        if name == record:
            continue
        if archive.getinfo(name).file_size > MAX_LIBRARY_BYTES:
            raise InputError(f"{name} in {wheel} is larger than {MAX_LIBRARY_BYTES} bytes")
        found = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest())
        if digest != f"sha256={found.rstrip(b'=').decode()}":
            raise InputError(f"{name} in {wheel} does not match its RECORD")


def _check_library(data: bytes, name: str, target: WheelTarget) -> None:
    needs = library_needs(data, name)
    if needs.machine != target.elf_machine:
        raise GateError(f"{name} is for ELF machine {needs.machine}, not {target.elf_machine}")
    if needs.glibc > GLIBC:
        raise GateError(
            f"{name} needs glibc {'.'.join(map(str, needs.glibc))}, "
            f"the wheel promises {'.'.join(map(str, GLIBC))}"
        )
    foreign = [
        file
        for file in needs.files
        if file not in target.libraries and file.split(".so")[0] not in ALLOWED_PARTS
    ]
    if foreign:
        raise GateError(f"{name} needs {', '.join(foreign)}, which not every device has")
    if needs.search_path != "$ORIGIN":
        raise GateError(f"{name} looks for its neighbours in '{needs.search_path}', not beside it")
