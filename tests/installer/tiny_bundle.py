"""Tiny real bundles: two wheels of pure Python, one artifact, signed by a key of the test's own.

The wheels hold a dummy `edgekit` and a dummy `runtimes.first_start`, so that what is installed
really starts and answers. The installer in the bundle is the real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import edgekit.installer

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
INTERPRETER = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
STUB = """\
import sys
sys.dont_write_bytecode = True
from installer.cli import main
sys.exit(main())
"""
EDGEKIT_MAIN = """\
import pathlib, sys
artifacts = pathlib.Path(sys.prefix) / "share" / "edgekit" / "artifacts"
print("answer", *sorted((p / "model.bin").read_bytes()[:2].decode() for p in artifacts.iterdir()))
"""
FIRST_START = """\
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--artifacts") + 1])
models = sorted(path.name for path in folder.iterdir())
assert all((folder / name / "model.bin").stat().st_size for name in models)
print(json.dumps({"works": True, "artifacts": models}))
"""


def key_of(seed: int = 1) -> Ed25519PrivateKey:
    """Return one of the test's keys."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def public_hex(seed: int = 1) -> str:
    """Return the public key of `key_of(seed)` in hex."""
    return key_of(seed).public_key().public_bytes_raw().hex()


def make_wheel(path: Path, files: Mapping[str, str | bytes], name: str = "dummy") -> None:
    """Write a wheel with a right RECORD."""
    folder = f"{name}-1.0.dist-info"
    held = {key: _bytes(value) for key, value in files.items()}
    held[f"{folder}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    held[f"{folder}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{key},sha256={_record_hash(value)},{len(value)}" for key, value in held.items()]
    held[f"{folder}/RECORD"] = "\n".join([*rows, f"{folder}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in held.items():
            info = zipfile.ZipInfo(key, (2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, value)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _record_hash(value: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b"=").decode()


def make_bundle(
    folder: Path,
    mark: str = "v1",
    *,
    model_bytes: int = 3000,
    seed: int = 1,
    first_start: str = FIRST_START,
    wheels: Callable[[Path], None] | None = None,
    **manifest: Any,
) -> Path:
    """Write a bundle whose edgekit answers `mark`; further keywords replace manifest values."""
    (folder / "wheels").mkdir(parents=True)
    edgekit_files = {"edgekit/__init__.py": "", "edgekit/__main__.py": EDGEKIT_MAIN}
    make_wheel(folder / "wheels/edgekit-1.0-py3-none-any.whl", edgekit_files, "edgekit")
    runtimes = {
        "runtimes/__init__.py": f"MARK = {mark!r}\n",
        "runtimes/first_start.py": first_start,
    }
    make_wheel(folder / "wheels/runtimes-1.0-py3-none-any.whl", runtimes, "runtimes")
    if wheels is not None:
        wheels(folder / "wheels")
    artifact = folder / "artifacts" / "tiny"
    artifact.mkdir(parents=True)
    (artifact / "model.bin").write_bytes(mark.encode() + b"\xa5" * model_bytes)
    (artifact / "edgekit.json").write_text("{}\n")
    (folder / "licences").mkdir()
    (folder / "licences" / "dummy.txt").write_text("free\n")
    (folder / "sbom.cdx.json").write_text("{}\n")
    (folder / "install.py").write_text(STUB)
    source = Path(edgekit.installer.__file__).parent
    shutil.copytree(source, folder / "installer", ignore=shutil.ignore_patterns("__pycache__"))
    sign(folder, seed, **manifest)
    return folder


def sign(folder: Path, seed: int = 1, **replaced: Any) -> None:
    """Write bundle.json and bundle.sig for what lies in the folder."""
    document = {**manifest_of(folder), **replaced}
    write_signed(folder, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode(), seed)


def write_signed(folder: Path, data: bytes, seed: int = 1) -> None:
    """Write `data` as bundle.json, with a signature that is right."""
    (folder / "bundle.json").write_bytes(data)
    signature = key_of(seed).sign(b"edgekit bundle 1\n" + data).hex()
    values = {"algorithm": "ed25519", "public_key": public_hex(seed), "signature": signature}
    (folder / "bundle.sig").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return a manifest of what lies in the folder."""
    files = [
        {
            "path": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("bundle.json", "bundle.sig")
    ]
    paths = [str(file["path"]) for file in files]
    return {
        "schema": 1,
        "name": "tiny",
        "edgekit": "0.1.0",
        "device": "this",
        "machine": platform.machine(),
        "python": PYTHON,
        "glibc": [2, 17],
        "cpu_features": [],
        "memory_bytes": 1000,
        "installed_bytes": 100_000,
        "artifacts": sorted(
            {"/".join(p.split("/")[:2]) for p in paths if p.startswith("artifacts/")}
        ),
        "wheels": [path for path in paths if path.endswith(".whl")],
        "files": files,
    }


def version_id(bundle: Path) -> str:
    """Return the version that a bundle becomes."""
    return hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()[:16]


def tree(folder: Path) -> dict[str, str]:
    """Return every path below `folder` with what it is: for byte-for-byte comparison."""
    if not folder.exists():
        return {}
    return {path.relative_to(folder).as_posix(): _what(path) for path in folder.rglob("*")}


def _what(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def complete_version(version: Path) -> str:
    """Return "" if `version` is exactly what its list says, else what is wrong.

    Written apart from the installer's own check, so that it can disagree with it.
    """
    try:
        listed = json.loads((version / "installed.json").read_bytes())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"installed.json: {error!r}"
    for file in listed:
        path = version / file["path"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
            return f"{file['path']} is missing or wrong"
    found = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    extra = found - {file["path"] for file in listed} - {"installed.json", "bin/python"}
    manifest = hashlib.sha256((version / "bundle.json").read_bytes()).hexdigest()[:16]
    if extra or manifest != version.name.split("-")[0]:
        return f"extra {extra}, id {manifest}"
    return ""


def current(prefix: Path) -> str:
    """Return the id of a complete current version, "" without one. Fails if it is not complete."""
    try:
        target = (prefix / "current").readlink()
    except FileNotFoundError:
        return ""
    wrong = complete_version(prefix / target)
    assert not wrong, f"current is {target}: {wrong}"
    return target.name
