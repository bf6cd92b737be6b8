"""A bundle: a folder with a manifest, a signature and the files that the manifest names.

Only reads. `open_bundle` parses, `verify` checks the signature, that nothing is missing or
extra, and every hash. Whether the key is to be trusted is asked elsewhere (trust.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import ed25519
from .errors import BundleError, disk_errors
from .manifest import (
    MANIFEST_NAME,
    MOST_MANIFEST_BYTES,
    SIGNATURE_NAME,
    BundleFile,
    Manifest,
    parse_json,
    parse_manifest,
)

SIGNED_PREFIX = b"edgekit bundle 1\n"
READ_BYTES = 1 << 20
_MOST_SIGNATURE_BYTES = 4096

OnBytes = Callable[[int], None]
"""Is told the size of each piece that was read."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `id` is the first 16 hex digits of the SHA-256 of bundle.json."""

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes
    signature_bytes: bytes
    public_key: bytes
    signature: bytes

    @property
    def id(self) -> str:
        """Return the name of the version that this bundle installs."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """Return the hex SHA-256 of the public key."""
        return fingerprint(self.public_key)


def fingerprint(public_key: bytes) -> str:
    """Return the hex SHA-256 of a public key, which people compare."""
    return hashlib.sha256(public_key).hexdigest()


def open_bundle(path: Path) -> Bundle:
    """Read bundle.json and bundle.sig in the folder `path`. Raises BundleError."""
    if not path.is_dir():
        hint = "unpack it first, and name the folder" if path.is_file() else "check the path"
        raise BundleError(f"{path} is no folder, so it is no bundle", hint)
    manifest_bytes = _read_small(path / MANIFEST_NAME, MOST_MANIFEST_BYTES)
    signature_bytes = _read_small(path / SIGNATURE_NAME, _MOST_SIGNATURE_BYTES)
    public_key, signature = _parse_signature(signature_bytes, str(path / SIGNATURE_NAME))
    manifest = parse_manifest(manifest_bytes, str(path / MANIFEST_NAME))
    return Bundle(path, manifest, manifest_bytes, signature_bytes, public_key, signature)


def verify(bundle: Bundle, on_bytes: OnBytes | None = None) -> None:
    """Check the signature, the list of files and every hash. Raises BundleError.

    Passing says that the owner of `bundle.public_key` made exactly these files.
    """
    verify_signature(bundle)
    verify_names(bundle)
    for file in bundle.manifest.files:
        verify_file(bundle.folder, file, on_bytes)


def verify_signature(bundle: Bundle) -> None:
    """Raise BundleError unless the signature is of this bundle.json."""
    message = SIGNED_PREFIX + bundle.manifest_bytes
    if not ed25519.verify(bundle.public_key, message, bundle.signature):
        raise BundleError(
            f"the signature of {bundle.folder} is not right: the bundle was changed or damaged",
            hint="copy the bundle again from where it was made",
        )


def verify_names(bundle: Bundle) -> None:
    """Raise BundleError for a file that is missing, extra, of another size, or a link."""
    wanted = {file.path: file.bytes for file in bundle.manifest.files}
    wanted[MANIFEST_NAME] = len(bundle.manifest_bytes)
    wanted[SIGNATURE_NAME] = len(bundle.signature_bytes)
    folders = {parent.as_posix() for path in wanted for parent in Path(path).parents} - {"."}
    found = set()
    for path, entry in walk(bundle.folder):
        if entry.is_dir(follow_symlinks=False) and path in folders:
            continue
        _check_entry(bundle.folder, path, entry, wanted)
        found.add(path)
    for path in sorted(set(wanted) - found):
        raise BundleError(f"{bundle.folder} lacks {path}", hint="copy the bundle again")


def _check_entry(folder: Path, path: str, entry: os.DirEntry[str], wanted: dict[str, int]) -> None:
    if path not in wanted:
        raise BundleError(
            f"{folder} holds {path!r}, which the bundle does not name",
            hint="remove it, or copy the bundle again",
        )
    state = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(state.st_mode):
        raise BundleError(f"{folder}: {path} is a link or a special file, and should be a file")
    if state.st_size != wanted[path]:
        raise BundleError(
            f"{folder}: {path} has {state.st_size} bytes and should have {wanted[path]}",
            hint="copy the bundle again",
        )


def verify_file(folder: Path, file: BundleFile, on_bytes: OnBytes | None = None) -> None:
    """Raise BundleError unless the file has the size and the SHA-256 that it should have."""
    with disk_errors(f"{folder / file.path} cannot be read"):
        size, digest = hash_file(folder / file.path, on_bytes)
    if (size, digest) != (file.bytes, file.sha256):
        raise BundleError(
            f"{folder}: {file.path} was changed or damaged: its SHA-256 is {digest[:16]}... and "
            f"should be {file.sha256[:16]}...",
            hint="copy the bundle again",
        )


def hash_file(path: Path, on_bytes: OnBytes | None = None) -> tuple[int, str]:
    """Return the size in bytes and the hex SHA-256 of a file that is no link."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        while piece := os.read(handle, READ_BYTES):
            digest.update(piece)
            size += len(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    finally:
        os.close(handle)
    return size, digest.hexdigest()


def walk(folder: Path, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every entry below `folder` with its relative path; follows no link."""
    with disk_errors(f"{folder} cannot be read"), os.scandir(folder / below) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = f"{below}/{entry.name}" if below else entry.name
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(folder, path)


def _read_small(path: Path, most_bytes: int) -> bytes:
    try:
        state = os.lstat(path)
        if not stat.S_ISREG(state.st_mode):
            raise BundleError(f"{path} is a link or a special file, and should be a file")
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing, so this is no bundle", "check the path") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > most_bytes:
        raise BundleError(f"{path} has more than {most_bytes} bytes, which is not plausible")
    return data


def _parse_signature(data: bytes, where: str) -> tuple[bytes, bytes]:
    values = parse_json(data, where)
    if not isinstance(values, dict) or set(values) != {"algorithm", "public_key", "signature"}:
        raise BundleError(f"{where} should have algorithm, public_key and signature")
    # One form only, so that no bit of the file can change and nobody notice.
    if (json.dumps(values, indent=2, sort_keys=True) + "\n").encode() != data:
        raise BundleError(f"{where} is not written as it should be: it was changed or damaged")
    if values["algorithm"] != "ed25519":
        raise BundleError(f"{where}: the algorithm should be ed25519")
    return _hex(values["public_key"], 32, where), _hex(values["signature"], 64, where)


def _hex(value: object, size: int, where: str) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise BundleError(f"{where}: {value!r:.140} is not {size} bytes in hex")
    return bytes.fromhex(value)
