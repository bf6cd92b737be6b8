"""installed.json: the list of every file of a version, and the check of a version against it.

The list is written last. It is not signed, but nearly all it says is: bundle.json (signed by a
trusted key) gives the hashes of artifacts, installer and licences; the RECORD of each wheel
gives those of its files, and records.json, where the bundle has one, gives those of the RECORDs.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bundle import Bundle, OnBytes, hash_file, open_bundle, verify_signature, walk
from .contents import (
    INSTALLED_NAME,
    INTERPRETER_LINK,
    RECORDS_NAME,
    environment,
    installed_path,
    site_packages,
)
from .disk import write_new
from .errors import BundleError, disk_errors
from .manifest import MANIFEST_NAME, SIGNATURE_NAME, parse_json
from .paths import check_path
from .scripts import VERSION_SCRIPT
from .smoke import CHOICE_PATH, SEAL, SEAL_NAME

_MOST_BYTES = 64 << 20


@dataclass
class Checked:
    """The result of checking a version: how much was compared, and every fault, as a sentence."""

    files: int = 0
    bytes: int = 0
    signed_files: int = 0
    recorded_files: int = 0
    faults: list[str] = field(default_factory=list)


def write_list(version: Path) -> int:
    """Hash every file in `version` and write installed.json; return the bytes."""
    files = []
    for path, entry in walk(version):
        if entry.is_file(follow_symlinks=False) and path != INSTALLED_NAME:
            size, digest = hash_file(version / path)
            files.append({"path": path, "bytes": size, "sha256": digest})
    document = {
        "schema": 1,
        "files": files,
        "interpreter": str((version / INTERPRETER_LINK).readlink()),
    }
    data = json.dumps(document, indent=1, sort_keys=True) + "\n"
    with disk_errors(f"{version} cannot be written"):
        write_new(version / INSTALLED_NAME, [data.encode()])
    return sum(size for size, _ in _listed(document).values())


def read_list(version: Path) -> dict[str, tuple[int, str]]:
    """Return path -> (bytes, SHA-256) of a version. Raises BundleError if the list is bad."""
    return _listed(_document(version))


def _document(version: Path) -> dict[str, Any]:
    path = version / INSTALLED_NAME
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{path} is larger than plausible")
        values = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(values, dict) or not isinstance(values.get("files"), list):
        raise BundleError(f"{path} is damaged")
    return values


def _listed(document: dict[str, Any]) -> dict[str, tuple[int, str]]:
    try:
        return {
            check_path(item["path"], INSTALLED_NAME): (int(item["bytes"]), str(item["sha256"]))
            for item in document["files"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{INSTALLED_NAME} is damaged: {error}") from error


def check_version(version: Path, keys: list[bytes], on_bytes: OnBytes | None = None) -> Checked:
    """Compare a version with its list, and the list with what is signed. Faults are returned."""
    checked = Checked()
    try:
        bundle = open_bundle(version)
        document = _document(version)
        listed = _listed(document)
    except BundleError as error:
        checked.faults.append(error.message)
        return checked
    checked.faults += _signature_faults(version, bundle, keys)
    checked.faults += _disk_faults(version, listed, document, checked, on_bytes)
    checked.faults += _origin_faults(version, bundle, listed, checked)
    return checked


def _signature_faults(version: Path, bundle: Bundle, keys: list[bytes]) -> Iterator[str]:
    if version.name.split("-")[0] != bundle.id:
        yield f"{version / 'bundle.json'} was changed: it is not of version {version.name}"
    if bundle.public_key not in keys:
        yield f"{version} is signed by a key that is not trusted here: {bundle.fingerprint}"
    try:
        verify_signature(bundle)
    except BundleError as error:
        yield error.message


def _disk_faults(
    version: Path,
    listed: dict[str, tuple[int, str]],
    document: dict[str, Any],
    checked: Checked,
    on_bytes: OnBytes | None,
) -> Iterator[str]:
    """Yield what is missing, extra or changed on the disk."""
    left = dict(listed)
    for path, entry in walk(version):
        if entry.is_dir(follow_symlinks=False) or path == INSTALLED_NAME:
            continue
        if path == INTERPRETER_LINK:
            yield from _interpreter_faults(version, document)
        elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode) or path not in left:
            yield f"{version / path} does not belong there"
        else:
            found = hash_file(version / path, on_bytes)
            if found != left.pop(path):
                yield f"{version / path} was changed or damaged"
            checked.files += 1
            checked.bytes += found[0]
    for path in left:
        yield f"{version / path} is missing"


def _interpreter_faults(version: Path, document: dict[str, Any]) -> Iterator[str]:
    link = version / INTERPRETER_LINK
    if not link.is_symlink() or str(link.readlink()) != document.get("interpreter"):
        yield f"{link} is not the link to Python that was made"
    elif not os.access(link, os.X_OK):
        yield f"{link} points to {link.readlink()}, which is gone: install that Python again"


def _origin_faults(
    version: Path, bundle: Bundle, listed: dict[str, tuple[int, str]], checked: Checked
) -> Iterator[str]:
    """Yield where the list says something else than what is signed or recorded."""
    signed = dict(_signed(bundle))
    own = dict(_own_texts(bundle)) if _same_installer(bundle) else {}
    recorded = dict(_recorded(version, bundle))
    signed_records = _read_records(version, signed)
    for path, digest in {**recorded, **signed, **own}.items():
        if path not in listed:
            yield f"{version / path} is missing in {INSTALLED_NAME}"
        elif listed[path][1] != digest:
            yield f"{version / path} is not what was signed"
    for path in sorted(listed.keys() - recorded.keys() - signed.keys() - own.keys()):
        if path.endswith(".dist-info/RECORD"):
            if signed_records and listed[path][1] not in signed_records:
                yield f"{version / path} is not what was signed"
        elif own and not _is_made_here(path, listed):
            yield f"{version / path} came from no wheel and no bundle"
    checked.signed_files = len(signed) + len(own) + (len(recorded) if signed_records else 0)
    checked.recorded_files = 0 if signed_records else len(recorded)


def _signed(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Yield path and SHA-256 of what bundle.json determines."""
    for file in bundle.manifest.files:
        if installed_path(file.path):
            yield installed_path(file.path), file.sha256


def _own_texts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Yield path and SHA-256 of what this code itself writes."""
    interpreter = Path(_home(bundle.folder)) / "python"
    yield "bin/edgekit", _digest(VERSION_SCRIPT)
    yield f"{site_packages(bundle.manifest.python)}/{SEAL_NAME}", _digest(SEAL)
    yield "pyvenv.cfg", _digest(environment(bundle.manifest, interpreter))
    yield MANIFEST_NAME, _digest(bundle.manifest_bytes)
    yield SIGNATURE_NAME, _digest(bundle.signature_bytes)


def _same_installer(bundle: Bundle) -> bool:
    """Return whether the version was made by this very installer: another writes other texts."""
    theirs = {f.path: f.sha256 for f in bundle.manifest.files if f.path.startswith("installer/")}
    folder = Path(__file__).parent
    ours = {f"installer/{path.name}": hash_file(path)[1] for path in folder.glob("*.py")}
    return ours == theirs


def _is_made_here(path: str, listed: dict[str, tuple[int, str]]) -> bool:
    """Return whether a file is bytecode of a module that is listed, or the first start's choice."""
    folder, _, name = path.rpartition("/")
    if name.endswith(".pyc") and folder.endswith("__pycache__"):
        return f"{folder[: -len('__pycache__')]}{name.split('.')[0]}.py" in listed
    return path == CHOICE_PATH


def _home(version: Path) -> str:
    try:
        return str(Path(str((version / INTERPRETER_LINK).readlink())).parent)
    except OSError:
        return "/"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_records(version: Path, signed: dict[str, str]) -> set[str]:
    """Return the SHA-256 of every wheel's RECORD from the signed records.json, if there is one."""
    if RECORDS_NAME not in signed:
        return set()
    try:
        values = parse_json((version / RECORDS_NAME).read_bytes(), RECORDS_NAME)
        return set(map(str, values.values()))
    except (OSError, BundleError, AttributeError):
        return {"unreadable"}


def _recorded(version: Path, bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Yield path and SHA-256 of what the installed RECORDs say."""
    site = site_packages(bundle.manifest.python)
    folder = version / site
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        text = record.read_text(encoding="utf-8", errors="replace")
        for row in csv.reader(io.StringIO(text)):
            if len(row) == 3 and row[1].startswith("sha256="):
                place = _place(row[0], site)
                if place:
                    yield place, _hex(row[1][len("sha256=") :])


def _place(name: str, site: str) -> str:
    match = re.match(r"[^/]+\.data/(purelib|platlib|data|scripts|headers)/(.+)", name)
    if match is None:
        return f"{site}/{name}"
    if match[1] in ("purelib", "platlib"):
        return f"{site}/{match[2]}"
    return match[2] if match[1] == "data" else ""


def _hex(value: str) -> str:
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except ValueError:
        return "unreadable"
