"""Small wheels for bundles, made by code: from text, or packed from what is installed here."""

from __future__ import annotations

import base64
import hashlib
import platform
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from edgekit.workflows.bundle.lock_files import LockedWheel


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    headers: str = "License-Expression: MIT\n",
    files: dict[str, str] | None = None,
) -> Path:
    """Write a wheel with a METADATA, a licence and `files`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    dist_info = f"{module}-{version}.dist-info"
    members = files or {
        f"{module}/__init__.py": "",
        f"{dist_info}/licenses/LICENSE": f"terms of {name}\n",
    }
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
        metadata_text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{headers}\n"
        archive.writestr(f"{dist_info}/METADATA", metadata_text)
        archive.writestr(
            f"{dist_info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        record = "".join(f"{member},,\n" for member in archive.namelist())
        archive.writestr(f"{dist_info}/RECORD", record + f"{dist_info}/RECORD,,\n")
    return path


def locked(path: Path, *parts: str) -> LockedWheel:
    """Return the lock's entry for a wheel."""
    name, version = path.name.split("-")[:2]
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return LockedWheel(name.replace("_", "-"), version, digest, path.name, len(data), parts)


def link_distribution(name: str, folder: Path) -> None:
    """Link the top-level files and folders of an installed distribution into `folder`."""
    distribution = metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        target = Path(str(distribution.locate_file(top)))
        if not (folder / top).exists():
            (folder / top).symlink_to(target)


def pack_installed(name: str, folder: Path) -> Path:
    """Write the wheel of a distribution that is installed here, from its RECORD; return its path.

    Its tag says this machine and this Python: what is compiled in it was built for them.
    """
    distribution = metadata.distribution(name)
    members = {
        file.as_posix(): file.read_binary()
        for file in distribution.files or ()
        if file.parts[0] != ".." and file.suffix != ".pyc" and file.name != "RECORD"
    }
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    libc = platform.libc_ver()[1].replace(".", "_")
    compiled = any(".so" in member for member in members)
    tag = f"{python}-{python}-manylinux_{libc}_{platform.machine()}" if compiled else "py3-none-any"
    module = distribution.metadata["Name"].replace("-", "_")
    record = [f"{member},{_digest(data)},{len(data)}" for member, data in members.items()]
    own = next(m for m in members if m.endswith(".dist-info/METADATA")).replace(
        "METADATA", "RECORD"
    )
    members[own] = "\n".join([*record, f"{own},,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{distribution.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return "sha256=" + digest.rstrip(b"=").decode()
