"""Artifact: a folder with a converted model and `edgekit.json`, the manifest that describes it.

The manifest is written last into a staging folder that is then renamed, so a folder with a
manifest is a finished artifact. A manifest comes from outside like any other file: opening one
checks every field, and that each file it names lies inside the folder and has the stated size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from edgekit.certificate import Certificate as Certificate
from edgekit.certificate import read_certificate
from edgekit.errors import InputError
from edgekit.fields import Fields
from edgekit.files import sha256_file, write_atomically
from edgekit.task import Task, read_task

MANIFEST_NAME = "edgekit.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 << 20

Format = Literal["gguf", "onnx", "torch"]
FORMATS: tuple[str, ...] = get_args(Format)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact: its path inside the folder, its size and its hash."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Substitution:
    """A tensor that could not have the type asked for, the type it has, and the reason."""

    tensor: str
    asked: str
    used: str
    why: str


@dataclass(frozen=True, slots=True)
class Source:
    """What an artifact was made from.

    `checkpoint_digest` is `Checkpoint.digest()`; `recipe` is the recipe that was really used;
    `tools` maps a tool's name to its version.
    """

    checkpoint: str
    checkpoint_digest: str
    licence: str
    recipe: dict[str, Any]
    tools: dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of an artifact.

    `entry` is the file that the engine opens. `bits_per_weight` counts every byte of tensor data
    that was written over the number of weights. `kv_bytes_per_token` is the KV cache's cost of
    one token of context in the engine's default precision.
    `stop_token_ids` end an answer; `bos_token_id` is None where the model has none.
    `task` says what a model does that is not for chats; it is None for all others.
    """

    name: str
    format: Format
    scheme: str
    entry: str
    architecture: str
    parameters: int
    vocabulary_size: int
    context_length: int
    kv_bytes_per_token: int
    bits_per_weight: float
    bos_token_id: int | None
    add_bos_token: bool
    stop_token_ids: list[int]
    chat_template: str | None
    files: list[FileEntry]
    source: Source
    substitutions: list[Substitution] = field(default_factory=list)
    certificate: Certificate | None = None
    task: Task | None = None
    schema: int = SCHEMA_VERSION

    @property
    def total_bytes(self) -> int:
        """Return the size of all files, without the manifest itself."""
        return sum(entry.bytes for entry in self.files)

    def to_json(self) -> bytes:
        """Return the manifest as indented UTF-8 JSON with a final newline."""
        document = asdict(self)
        if self.task is None:  # as before there were tasks
            del document["task"]
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Read and check the manifest of the folder `path`; compare the size of every file.

        Raises InputError. Hashes are not computed: see `verify`.
        """
        manifest = _parse(_read_json(path / MANIFEST_NAME), path / MANIFEST_NAME)
        for entry in manifest.files:
            file = path / entry.path
            if not file.is_file():
                raise _damaged(path, f"{entry.path} is missing")
            if file.stat().st_size != entry.bytes:
                found = file.stat().st_size
                raise _damaged(path, f"{entry.path} has {found} bytes, not {entry.bytes}")
        return cls(path, manifest)

    @property
    def entry(self) -> Path:
        """Return the path of the file that the engine opens."""
        return self.path / self.manifest.entry

    def verify(self, on_bytes: Callable[[int], None] | None = None) -> None:
        """Compare the SHA-256 of every file with the manifest. Raises InputError."""
        for entry in self.manifest.files:
            if sha256_file(self.path / entry.path, on_bytes) != entry.sha256:
                raise _damaged(self.path, f"{entry.path} does not match its SHA-256")

    def certified(self, certificate: Certificate) -> Artifact:
        """Store `certificate` in the manifest on disk and return the artifact with it."""
        manifest = replace(self.manifest, certificate=certificate)
        write_atomically(self.path / MANIFEST_NAME, manifest.to_json())
        return replace(self, manifest=manifest)


def finish(folder: Path, manifest: Manifest) -> None:
    """Write `manifest`, its `files` filled in from what lies in `folder`, as the last file."""
    names = sorted(p for p in folder.rglob("*") if p.is_file())
    files = [
        FileEntry(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_file(p)) for p in names
    ]
    write_atomically(folder / MANIFEST_NAME, replace(manifest, files=files).to_json())


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"artifact {path}: {what}", hint="convert it again, or copy it again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InputError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is not an artifact: it holds no {path.name}",
            hint="make one with edgekit convert",
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object")
    return document


def _parse(document: dict[str, Any], path: Path) -> Manifest:
    where = str(path)
    fields = Fields(document, where)
    schema = fields.count("schema")
    if schema != SCHEMA_VERSION:
        raise InputError(
            f"{where} has schema {schema}, this edgekit reads {SCHEMA_VERSION}",
            hint="convert the model again with this edgekit, or install a newer one",
        )
    format_name = fields.take("format", str)
    if format_name not in FORMATS:
        raise InputError(f"{where}: 'format' is {format_name!r}, known are {', '.join(FORMATS)}")
    files = [_file_entry(Fields(v, where), where) for v in fields.take("files", list)]
    entry, names = fields.take("entry", str), {f.path for f in files}
    if entry not in names:
        raise InputError(f"{where}: 'entry' is {entry!r}, which is not among its files")
    vocabulary_size = fields.count("vocabulary_size")
    certificate, task = document.get("certificate"), document.get("task")
    return Manifest(
        name=fields.take("name", str),
        format=format_name,
        scheme=fields.take("scheme", str),
        entry=entry,
        architecture=fields.take("architecture", str),
        parameters=fields.count("parameters"),
        vocabulary_size=vocabulary_size,
        context_length=fields.count("context_length"),
        kv_bytes_per_token=fields.count("kv_bytes_per_token"),
        bits_per_weight=float(fields.take("bits_per_weight", (float, int))),
        bos_token_id=fields.take("bos_token_id", (int, type(None))),
        add_bos_token=fields.take("add_bos_token", bool),
        stop_token_ids=_token_ids(fields.take("stop_token_ids", list), vocabulary_size, where),
        chat_template=fields.take("chat_template", (str, type(None))),
        files=files,
        source=_source(Fields(document.get("source"), where)),
        substitutions=[_substitution(Fields(v, where)) for v in fields.take("substitutions", list)],
        certificate=None if certificate is None else read_certificate(Fields(certificate, where)),
        task=None if task is None else read_task(Fields(task, where), names, vocabulary_size),
    )


def _file_entry(fields: Fields, where: str) -> FileEntry:
    path = fields.take("path", str)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise InputError(f"{where}: the file {path!r} points outside the artifact")
    return FileEntry(path, fields.count("bytes"), fields.take("sha256", str))


def _token_ids(values: list[Any], vocabulary_size: int, where: str) -> list[int]:
    for value in values:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 <= value < vocabulary_size
        ):
            raise InputError(f"{where}: stop token {value!r} is not below {vocabulary_size}")
    return list(values)


def _source(fields: Fields) -> Source:
    return Source(
        checkpoint=fields.take("checkpoint", str),
        checkpoint_digest=fields.take("checkpoint_digest", str),
        licence=fields.take("licence", str),
        recipe=fields.take("recipe", dict),
        tools=fields.strings("tools"),
    )


def _substitution(fields: Fields) -> Substitution:
    return Substitution(*(fields.take(key, str) for key in ("tensor", "asked", "used", "why")))
