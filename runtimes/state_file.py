"""A KV cache on disk: a small JSON header that says whose it is, then the engine's own bytes.

Layout: 8 bytes of magic, the header's length as 4 bytes little-endian, the header, the payload.
The payload is mapped, never copied through memory. A cache is conversation content: the file is
the owner's alone (mode 0600) and appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.artifact import Artifact
from edgekit.errors import InputError
from edgekit.files import disk_errors, fsync_folder

MAGIC = b"EDGEKV01"
_LENGTH = struct.Struct("<I")
_BEFORE_HEADER = len(MAGIC) + _LENGTH.size
MAX_HEADER_BYTES = 64 << 20
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class StateHeader:
    """Whose cache it is: engine and version, the model file's hash, the tokens in order."""

    engine: str
    model_sha256: str
    tokens: list[int]
    payload_bytes: int
    payload_sha256: str = "0" * 64


def identity_of(artifact: Artifact) -> str:
    """Return one hash of all files of an artifact whose weights lie beside its entry file."""
    files = sorted((file.path, file.sha256) for file in artifact.manifest.files)
    return hashlib.sha256(repr(files).encode()).hexdigest()


def write_state(path: Path, header: StateHeader, fill: Callable[[mmap.mmap, int], None]) -> None:
    """Write a state file; `fill(mapped, offset)` writes the payload into the mapped file.

    Raises GateError if the disk is full, InputError if the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "r+b", buffering=0) as stream:
                _write_into(stream.fileno(), header, fill)
                os.fsync(stream.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _write_into(handle: int, header: StateHeader, fill: Callable[[mmap.mmap, int], None]) -> None:
    # The header's length does not depend on the hash, so the hash can be filled in last.
    offset = _BEFORE_HEADER + len(_encode(header))
    _allocate(handle, offset + header.payload_bytes)
    with mmap.mmap(handle, offset + header.payload_bytes) as mapped:
        fill(mapped, offset)
        digest = _sha256(mapped, offset)
        encoded = _encode(replace(header, payload_sha256=digest))
        mapped[:offset] = MAGIC + _LENGTH.pack(len(encoded)) + encoded
        mapped.flush()


def _allocate(handle: int, size: int) -> None:
    """Give the file its blocks now: a full disk must be an error, not a signal on a mapped page."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    for start in range(0, size, len(_ZEROS)):
        os.write(handle, _ZEROS[: size - start])


@contextmanager
def open_state(
    path: Path, engine: str, model_sha256: str, context_length: int, vocabulary_size: int
) -> Iterator[tuple[StateHeader, mmap.mmap, int]]:
    """Yield the header, the mapped file (changes to it stay private) and the payload's offset.

    Raises InputError unless the file is whole, unchanged, and made by this engine for this model,
    with tokens that fit the context.
    """
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        header, offset = _read_header(stream.read(_BEFORE_HEADER), stream.read, size, path)
        _require_match(header, path, engine, model_sha256)
        _require_tokens(header, path, context_length, vocabulary_size)
        with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            if _sha256(mapped, offset) != header.payload_sha256:
                raise _damaged(path, "its payload does not match its SHA-256")
            yield header, mapped, offset


def _read_header(
    start: bytes, read: Callable[[int], bytes], size: int, path: Path
) -> tuple[StateHeader, int]:
    if len(start) < _BEFORE_HEADER or start[: len(MAGIC)] != MAGIC:
        raise InputError(f"{path} is not a saved conversation state")
    (length,) = _LENGTH.unpack(start[len(MAGIC) :])
    offset = _BEFORE_HEADER + length
    if length > MAX_HEADER_BYTES or offset > size:
        raise _damaged(path, f"its header claims {length} bytes, the file has {size}")
    header = _decode(read(length), path)
    if offset + header.payload_bytes != size:
        raise _damaged(path, f"it has {size} bytes, not {offset + header.payload_bytes}")
    return header, offset


def _require_match(header: StateHeader, path: Path, engine: str, model_sha256: str) -> None:
    if header.model_sha256 != model_sha256:
        raise InputError(
            f"{path} was saved by another model", hint="open it with the model that saved it"
        )
    if header.engine != engine:
        raise InputError(
            f"{path} was saved by {header.engine}, this is {engine}",
            hint="remove it: the conversation is processed again",
        )


def _require_tokens(
    header: StateHeader, path: Path, context_length: int, vocabulary_size: int
) -> None:
    if len(header.tokens) > context_length:
        raise InputError(
            f"{path} holds {len(header.tokens)} tokens and the context {context_length}",
            hint="load the model with a longer context",
        )
    if not all(0 <= token < vocabulary_size for token in header.tokens):
        raise _damaged(path, f"it holds a token outside the vocabulary of {vocabulary_size}")


def _encode(header: StateHeader) -> bytes:
    return json.dumps(asdict(header)).encode()


def _decode(data: bytes, path: Path) -> StateHeader:
    try:
        fields: Any = json.loads(data)
        header = StateHeader(**fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, "its header cannot be read") from error
    texts = (header.engine, header.model_sha256, header.payload_sha256)
    numbers = [header.payload_bytes, *header.tokens] if isinstance(header.tokens, list) else [None]
    if not all(isinstance(t, str) for t in texts) or not all(type(n) is int for n in numbers):
        raise _damaged(path, "its header has values of the wrong type")
    return header


def _sha256(mapped: mmap.mmap, offset: int) -> str:
    with memoryview(mapped) as whole, whole[offset:] as payload:
        return hashlib.sha256(payload).hexdigest()


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"the saved state {path} is damaged: {what}",
        hint="remove it: the conversation is processed again",
    )
