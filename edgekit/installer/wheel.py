"""A wheel as a list of files to install, each with its size, hash and mode.

Reads the zip's directory and RECORD, and hands out the content of one member at a time. It
refuses what could write outside, links, encryption, names that collide, and sizes that are not
plausible; it knows nothing of where the files go on the disk.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .disk import FILE_MODE, PROGRAM_MODE
from .errors import BundleError
from .paths import check_path, refuse_collisions

MOST_MEMBERS = 50_000
MOST_MEMBER_BYTES = 2 << 30
MOST_WHEEL_BYTES = 4 << 30
MOST_RATIO = 500
_MOST_RECORD_BYTES = 16 << 20
_SMALL_BYTES = 4 << 20
_READ_BYTES = 1 << 20
# Where the parts of NAME.data go: (folder of the environment). Scripts and headers are left out:
# nothing here runs or compiles against them.
_DATA = {"purelib": "site", "platlib": "site", "data": "share"}
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    UnicodeDecodeError,
)
_LEFT_OUT = ("scripts", "headers")


@dataclass(frozen=True)
class Member:
    """One file of a wheel: `path` is below site-packages, or below share/ if `shared`."""

    name: str
    path: str
    shared: bool
    bytes: int
    sha256: str
    mode: int


def read_wheel(path: Path) -> list[Member]:
    """Return what a wheel installs. Raises BundleError, which names the wheel and the member."""
    with _opened(path) as archive:
        infos = _members(archive, path)
        record_name, record = _record(archive, infos, path)
        listed = _parse_record(record, path)
        members = [_member(info, listed, (record_name, record), path) for info in infos.values()]
        for name in sorted(set(listed) - set(infos)):
            raise BundleError(f"{path.name}: RECORD lists {name!r:.200}, which is not in the wheel")
    return [member for member in members if member is not None]


def member_pieces(path: Path, member: Member) -> Iterator[bytes]:
    """Yield a member's content in pieces; raise BundleError at the end if it is not as recorded."""
    for _, pieces in wheel_pieces(path, [member]):
        yield from pieces


def wheel_pieces(path: Path, wanted: list[Member]) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Yield each wanted member with its content; the zip's directory is read once."""
    with _opened(path) as archive:
        for member in wanted:
            yield member, _checked(archive, member, path)


def _checked(archive: zipfile.ZipFile, member: Member, path: Path) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    try:
        with archive.open(member.name) as stream:
            while size <= member.bytes and (piece := stream.read(_READ_BYTES)):
                size += len(piece)
                digest.update(piece)
                yield piece
    except _DAMAGE as error:
        raise BundleError(f"{path.name}: {member.name!r:.200} is damaged: {error}") from error
    if size != member.bytes or digest.hexdigest() != member.sha256:
        raise BundleError(f"{path.name}: {member.name!r:.200} is not what its RECORD says")


class _opened:  # noqa: N801 - reads like a function
    """A zip file whose faults become BundleErrors that name it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> zipfile.ZipFile:
        try:
            self._archive = zipfile.ZipFile(self._path)
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleError(f"{self._path} is no readable wheel: {error}") from error
        return self._archive

    def __exit__(self, *_: object) -> None:
        self._archive.close()


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MOST_MEMBERS:
        raise BundleError(f"{path.name} has {len(infos)} members, at most {MOST_MEMBERS} allowed")
    refuse_collisions((check_path(info.filename, path.name) for info in infos), path.name)
    for info in infos:
        _check_member(info, path)
    total = sum(info.file_size for info in infos)
    most = min(MOST_WHEEL_BYTES, max(_SMALL_BYTES, MOST_RATIO * path.stat().st_size))
    if total > most:
        raise BundleError(f"{path.name} would unpack to {total} bytes, at most {most} are allowed")
    return {info.filename: info for info in infos}


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BundleError(f"{path.name}: {info.filename!r:.200} is a link or a special file")
    if info.flag_bits & 1:
        raise BundleError(f"{path.name}: {info.filename!r:.200} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{path.name}: {info.filename!r:.200} is compressed in an unusual way")
    if info.file_size > MOST_MEMBER_BYTES:
        raise BundleError(
            f"{path.name}: {info.filename!r:.200} has {info.file_size} bytes, "
            f"at most {MOST_MEMBER_BYTES} are allowed"
        )


def _record(
    archive: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo], path: Path
) -> tuple[str, bytes]:
    names = [name for name in infos if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(names) != 1 or infos[names[0]].file_size > _MOST_RECORD_BYTES:
        raise BundleError(f"{path.name} should have one RECORD of a plausible size")
    try:
        return names[0], archive.read(names[0])
    except (*_DAMAGE, OSError) as error:
        raise BundleError(f"{path.name}: RECORD is damaged: {error}") from error


def _parse_record(record: bytes, path: Path) -> dict[str, tuple[str, int]]:
    """Return name -> (hex SHA-256 or "", size in bytes or -1)."""
    listed = {}
    try:
        rows = [row for row in csv.reader(io.StringIO(record.decode("utf-8"))) if row]
        for name, algorithm, size in rows:
            kind, _, value = algorithm.partition("=")
            digest = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
            if name in listed or (value and (kind != "sha256" or len(digest) != 64)):
                raise ValueError(f"the row of {name!r:.200}")
            listed[name] = (digest, int(size) if size else -1)
    except (ValueError, csv.Error, binascii.Error) as error:
        raise BundleError(f"{path.name}: RECORD cannot be read: {error}") from error
    return listed


def _member(
    info: zipfile.ZipInfo,
    listed: dict[str, tuple[str, int]],
    record: tuple[str, bytes],
    path: Path,
) -> Member | None:
    """Return the member as it is installed, or None for what is left out."""
    name = info.filename
    digest, size = listed.get(name, ("", -1))
    if name == record[0]:
        digest, size = hashlib.sha256(record[1]).hexdigest(), len(record[1])
    elif name.endswith((".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")):
        return None
    if not digest or size != info.file_size:
        raise BundleError(f"{path.name}: {name!r:.200} has no hash, or another size, in RECORD")
    place = _place(name, path)
    mode = PROGRAM_MODE if info.external_attr >> 16 & 0o111 else FILE_MODE
    return place and Member(name, place[0], place[1], size, digest, mode)


def _place(name: str, path: Path) -> tuple[str, bool] | None:
    first, _, rest = name.partition("/")
    if not first.endswith(".data") or not rest:
        return name, False
    part, _, inside = rest.partition("/")
    if part in _LEFT_OUT:
        return None
    if _DATA.get(part) == "site" and inside:
        return inside, False
    if part == "data" and inside.startswith("share/") and not inside.startswith("share/edgekit/"):
        return inside[len("share/") :], True
    raise BundleError(f"{path.name}: {name!r:.200} would be installed at an unknown place")
