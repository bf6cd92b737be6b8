"""bundle.json: what a bundle says of itself, parsed strictly.

Knows no keys and no disk. Unknown or missing keys, wrong types, numbers out of range, strange
paths and names that collide are refused with a sentence.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .errors import BundleError
from .paths import check_path, refuse_collisions

SCHEMA = 1
MANIFEST_NAME = "bundle.json"
SIGNATURE_NAME = "bundle.sig"
MOST_MANIFEST_BYTES = 32 << 20
MOST_FILES = 100_000
MOST_BYTES = 1 << 42

_KEYS = {
    "schema",
    "name",
    "edgekit",
    "device",
    "machine",
    "python",
    "glibc",
    "cpu_features",
    "memory_bytes",
    "installed_bytes",
    "artifacts",
    "wheels",
    "files",
}


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle: a relative path with `/`, its size in bytes, its hex SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of bundle.json.

    `python` is the exact minor version of the wheels. `glibc` is the least version, (0, 0) off
    Linux. `cpu_features` are the least, named as in /proc/cpuinfo. `memory_bytes` is the planned
    peak, 0 if unknown. The first of `artifacts` is the default; there may be none.
    """

    name: str
    edgekit: str
    device: str
    machine: str
    python: str
    glibc: tuple[int, int]
    cpu_features: tuple[str, ...]
    memory_bytes: int
    installed_bytes: int
    artifacts: tuple[str, ...]
    wheels: tuple[str, ...]
    files: tuple[BundleFile, ...]


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest in `data`; `where` names it in errors. Raises BundleError."""
    values = parse_json(data, where)
    if not isinstance(values, dict):
        raise BundleError(f"{where} should hold one JSON object")
    if values.get("schema") != SCHEMA or isinstance(values["schema"], bool):
        raise BundleError(
            f"{where} has schema {values.get('schema')!r:.40}, this installer reads {SCHEMA}",
            hint="use the installer that came with that bundle",
        )
    for key in sorted(_KEYS ^ set(values)):
        what = "lacks" if key in _KEYS else "has the unknown key"
        raise BundleError(f"{where} {what} {key!r:.80}")
    files = _files(values["files"], where)
    manifest = Manifest(
        name=_text(values, "name", where),
        edgekit=_text(values, "edgekit", where),
        device=_text(values, "device", where),
        machine=_text(values, "machine", where),
        python=_text(values, "python", where, r"3\.\d{1,2}"),
        glibc=_glibc(values["glibc"], where),
        cpu_features=tuple(_texts(values, "cpu_features", where)),
        memory_bytes=_number(values["memory_bytes"], f"{where}: memory_bytes"),
        installed_bytes=_number(values["installed_bytes"], f"{where}: installed_bytes"),
        artifacts=tuple(_texts(values, "artifacts", where)),
        wheels=tuple(_texts(values, "wheels", where)),
        files=files,
    )
    _check_named(manifest, where)
    return manifest


def parse_json(data: bytes, where: str) -> Any:
    """Return strict JSON: UTF-8, no repeated key, no NaN. Raises BundleError."""
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is no valid JSON: {str(error) or 'too deep':.120}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _text(values: dict[str, Any], key: str, where: str, pattern: str = r"[\w.+-]{1,100}") -> str:
    value = values[key]
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        raise BundleError(f"{where}: {key!r} is {value!r:.100}, which is not allowed there")
    return value


def _texts(values: dict[str, Any], key: str, where: str) -> list[str]:
    value = values[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BundleError(f"{where}: {key!r} should be a list of text, it is {value!r:.100}")
    if len(set(value)) != len(value):
        raise BundleError(f"{where}: {key!r} names something twice")
    return value


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST_BYTES:
        raise BundleError(f"{what} should be a number of 0 to {MOST_BYTES}, it is {value!r:.40}")
    return value


def _glibc(value: Any, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise BundleError(f"{where}: 'glibc' should be two numbers, it is {value!r:.100}")
    return _number(value[0], f"{where}: glibc"), _number(value[1], f"{where}: glibc")


def _files(value: Any, where: str) -> tuple[BundleFile, ...]:
    if not isinstance(value, list) or len(value) > MOST_FILES:
        raise BundleError(f"{where}: 'files' should be a list of at most {MOST_FILES} files")
    files = tuple(_file(item, where) for item in value)
    reserved = [MANIFEST_NAME, SIGNATURE_NAME]
    refuse_collisions([*reserved, *(file.path for file in files)], where)
    if sum(file.bytes for file in files) > MOST_BYTES:
        raise BundleError(f"{where}: the files have more than {MOST_BYTES} bytes together")
    return files


def _file(item: Any, where: str) -> BundleFile:
    if not isinstance(item, dict) or set(item) != {"path", "bytes", "sha256"}:
        raise BundleError(f"{where}: each of 'files' should have path, bytes and sha256")
    path = check_path(item["path"], where)
    return BundleFile(path, _number(item["bytes"], f"{where}: {path}"), _sha256(item, path, where))


def _sha256(item: dict[str, Any], path: str, where: str) -> str:
    value = item["sha256"]
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise BundleError(f"{where}: {path}: {value!r:.80} is no SHA-256 in hex")
    return value


def _check_named(manifest: Manifest, where: str) -> None:
    """Refuse wheels and artifacts that are not among the files, and files of neither."""
    paths = {file.path for file in manifest.files}
    for wheel in manifest.wheels:
        if wheel not in paths or not re.fullmatch(r"wheels/[^/]+\.whl", wheel):
            raise BundleError(f"{where}: the wheel {wheel!r:.200} is not among the files")
    for artifact in manifest.artifacts:
        inside = any(path.startswith(artifact + "/") for path in paths)
        if not inside or not re.fullmatch(r"artifacts/[^/]+", artifact):
            raise BundleError(f"{where}: the artifact {artifact!r:.200} is not among the files")
    known = (*(f"{artifact}/" for artifact in manifest.artifacts), *manifest.wheels)
    for path in sorted(paths):
        if path.startswith(("artifacts/", "wheels/")) and not path.startswith(known):
            raise BundleError(
                f"{where}: {path!r:.200} belongs to no wheel and no artifact it names"
            )
