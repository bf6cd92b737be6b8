"""What an installed version consists of: every file, with its hash and where it comes from.

Made from a verified bundle alone, before anything is written. Knows no prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle
from .disk import FILE_MODE, PROGRAM_MODE
from .errors import BundleError
from .manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from .paths import refuse_collisions
from .scripts import VERSION_SCRIPT
from .wheel import Member, read_wheel

ARTIFACTS = "share/edgekit/artifacts"
INSTALLED_NAME = "installed.json"
RECORDS_NAME = "records.json"
STUB_NAME = "install.py"
INTERPRETER_LINK = "bin/python"
_RESERVED = ("bin", "lib", "share", "pyvenv.cfg", INSTALLED_NAME, MANIFEST_NAME, SIGNATURE_NAME)
_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Item:
    """One file of a version: `path` inside it, and one of the three sources."""

    path: str
    bytes: int
    sha256: str
    mode: int
    text: str | None = None
    bundled: str = ""
    wheel: str = ""
    member: Member | None = None


@dataclass(frozen=True)
class Contents:
    """Everything that a version holds, but for what it writes about itself."""

    items: tuple[Item, ...]
    interpreter: Path

    @property
    def disk_bytes(self) -> int:
        """Return the room that the files take, with their last blocks and bytecode."""
        whole = sum(-(-item.bytes // _BLOCK_BYTES) * _BLOCK_BYTES for item in self.items)
        return whole + sum(item.bytes for item in self.items if item.path.endswith(".py"))


def contents(bundle: Bundle, interpreter: Path) -> Contents:
    """Return what the bundle installs for this interpreter. Raises BundleError."""
    manifest = bundle.manifest
    items = [
        *_of_bundle(bundle),
        *(item for wheel in manifest.wheels for item in _of_wheel(bundle, wheel)),
        _text("pyvenv.cfg", environment(manifest, interpreter)),
        _text("bin/edgekit", VERSION_SCRIPT, PROGRAM_MODE),
        _text(MANIFEST_NAME, bundle.manifest_bytes),
        _text(SIGNATURE_NAME, bundle.signature_bytes),
    ]
    items = _without_repeats(items)
    refuse_collisions([INTERPRETER_LINK, *(item.path for item in items)], str(bundle.folder))
    return Contents(tuple(items), interpreter)


def environment(manifest: Manifest, interpreter: Path) -> bytes:
    """Return the pyvenv.cfg that makes the version's folder a Python environment (PEP 405)."""
    lines = [
        f"home = {interpreter.parent}",
        "include-system-site-packages = false",
        f"version = {manifest.python}",
    ]
    return ("\n".join(lines) + "\n").encode()


def site_packages(python: str) -> str:
    """Return where the packages lie inside a version."""
    return f"lib/python{python}/site-packages"


def installed_path(bundled: str) -> str:
    """Return where a file of the bundle goes inside a version; "" if it stays behind."""
    if bundled == STUB_NAME or bundled.startswith("wheels/"):
        return ""
    if bundled.startswith("artifacts/"):
        return ARTIFACTS + bundled[len("artifacts") :]
    return bundled


def _of_bundle(bundle: Bundle) -> Iterable[Item]:
    for file in bundle.manifest.files:
        path = installed_path(file.path)
        if path and path == file.path and path.split("/")[0].casefold() in _RESERVED:
            raise BundleError(f"{bundle.folder}: {file.path!r:.200} is a name of the installer's")
        if path:
            yield Item(path, file.bytes, file.sha256, FILE_MODE, bundled=file.path)


def _of_wheel(bundle: Bundle, wheel: str) -> Iterable[Item]:
    site = site_packages(bundle.manifest.python)
    for member in read_wheel(bundle.folder / wheel):
        path = f"share/{member.path}" if member.shared else f"{site}/{member.path}"
        yield Item(path, member.bytes, member.sha256, member.mode, wheel=wheel, member=member)


def _text(path: str, data: bytes, mode: int = FILE_MODE) -> Item:
    return Item(path, len(data), hashlib.sha256(data).hexdigest(), mode, text=data.decode())


def _without_repeats(items: Iterable[Item]) -> list[Item]:
    """Keep one of files that two wheels bring alike; two that differ collide later."""
    kept: dict[tuple[str, str], Item] = {}
    for item in items:
        kept.setdefault((item.path, item.sha256), item)
    return list(kept.values())
