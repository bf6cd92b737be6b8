"""bundle.json and bundle.sig: what a bundle says of itself, and who says it.

The installer (edgekit.installer) reads both strictly; its reader is asked before a bundle is done.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit.artifact import FileEntry
from edgekit.files import sha256_file
from edgekit.progress import Progress

MANIFEST_NAME = "bundle.json"
SIGNATURE_NAME = "bundle.sig"
# With it, what is signed covers every file of the wheels, also when they are unpacked.
RECORDS_NAME = "records.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """The content of bundle.json, but for the schema. Sizes are in bytes.

    `glibc` is the least version, (0, 0) where there is none. `memory_bytes` is what the largest
    artifact needs, 0 if unknown. `artifacts` and `wheels` are paths inside the bundle.
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
    files: tuple[FileEntry, ...]

    def to_json(self) -> bytes:
        """Return canonical JSON: UTF-8, two spaces, sorted keys, a final newline."""
        return to_json(asdict(self) | {"schema": SCHEMA_VERSION})


def to_json(document: object) -> bytes:
    """Return canonical JSON: UTF-8, two spaces, sorted keys, a final newline."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()


def list_files(folder: Path, known: dict[str, FileEntry], progress: Progress) -> list[FileEntry]:
    """Return every file below `folder` with its hash, sorted by path.

    `known` are entries, by path, whose hashes were computed while they were written.
    """
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    unknown = sum(size for name, size in sizes.items() if name not in known)
    with progress.task("hashing the bundle", unknown) as advance:
        return [
            known.get(name) or FileEntry(name, sizes[name], sha256_file(paths[name], advance))
            for name in sorted(paths)
        ]
