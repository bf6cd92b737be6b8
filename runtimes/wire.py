"""What parent and worker say to each other: JSON objects behind a length, over pipes.

Each side treats the other's bytes with care: a frame has a largest size, and a worker that was
taken over by a hostile model file can send nothing but JSON. Standard library only: the worker
imports this before it locks itself up.
"""

from __future__ import annotations

import json
import os
import select
import struct
import threading
import time
import traceback
from typing import Any

from edgekit import errors
from edgekit.errors import EngineFailure

Frame = dict[str, Any]

MAX_FRAME_BYTES = 64 << 20
READ_BYTES = 1 << 16
_LENGTH = struct.Struct("<I")
_ERROR_KINDS = {
    kind.__name__: kind
    for kind in (
        errors.UsageError,
        errors.InputError,
        errors.MissingExtraError,
        errors.GateError,
        errors.PrivacyError,
        EngineFailure,
    )
}


class WireError(Exception):
    """The other side sent something that is not a frame."""


class FrameReader:
    """Reads frames from a pipe. One thread at a time."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Return the next frame, or None at the end. Raises TimeoutError, WireError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._fill(_LENGTH.size, deadline):
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise WireError(f"a frame claims {length} bytes")
        end = _LENGTH.size + length
        if not self._fill(end, deadline):
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return _decode(body)

    def _fill(self, count: int, deadline: float | None) -> bool:
        """Read until the buffer holds `count` bytes; return False if the pipe ends before."""
        while len(self._buffer) < count:
            if deadline is not None:
                left_ms = max(0.0, deadline - time.monotonic()) * 1000
                if not self._poll.poll(left_ms):
                    raise TimeoutError
            data = os.read(self._handle, READ_BYTES)
            if not data:
                return False
            self._buffer += data
        return True


class FrameWriter:
    """Writes frames to a pipe, from any thread."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._lock = threading.RLock()  # a finaliser may write while its thread writes

    def write(self, frame: Frame) -> None:
        """Write one frame whole. Raises OSError when nobody reads any more."""
        body = json.dumps(frame, separators=(",", ":")).encode()
        data = memoryview(_LENGTH.pack(len(body)) + body)
        with self._lock:
            while data:
                data = data[os.write(self._handle, data) :]

    def close(self) -> None:
        """Close the pipe; a later write raises OSError. Safe to call twice."""
        with self._lock:
            handle, self._handle = self._handle, -1
            if handle >= 0:
                os.close(handle)


def _decode(body: bytes) -> Frame:
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame is not JSON") from error
    if not isinstance(frame, dict):
        raise WireError("a frame is not an object")
    return frame


def encode_error(error: Exception) -> Frame:
    """Return `error` as JSON: one of ours by its name, any other with its traceback."""
    if isinstance(error, errors.EdgekitError) and type(error).__name__ in _ERROR_KINDS:
        return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    return {"kind": "bug", "message": "".join(traceback.format_exception(error)), "hint": ""}


def decode_error(fields: Frame) -> Exception:
    """Return the error that `encode_error` wrote; a bug becomes a RuntimeError with its trace."""
    message, hint = str(fields.get("message")), str(fields.get("hint"))
    kind = _ERROR_KINDS.get(str(fields.get("kind")))
    if kind is None:
        return RuntimeError(f"the worker process failed:\n{message}")
    return kind(message, hint=hint)
