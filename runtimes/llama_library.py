"""llama.cpp's C functions through llama-cpp-python, silenced, with a switch that stops a decode.

Knows nothing of tokens or caches: only how to load the library and how to talk past it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from functools import cache
from typing import Any

from edgekit.extras import need

LOG_LINES_KEPT = 40
_LOG_LEVEL_WARN = 2
_LOG_LEVEL_ERROR = 3

_log: deque[str] = deque(maxlen=LOG_LINES_KEPT)
# ctypes frees a callback that nobody holds, and llama.cpp would go on calling it.
_held: list[Any] = []


@cache
def load() -> Any:
    """Return the module of C functions, ready for use. Raises MissingExtraError."""
    llama = need("llama_cpp.llama_cpp", "gguf")

    @llama.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def keep(level: int, text: bytes, user_data: Any) -> None:
        if level in (_LOG_LEVEL_WARN, _LOG_LEVEL_ERROR):
            _log.append(text.decode("utf-8", "replace").strip())

    llama.llama_log_set(keep, None)
    _held.append(keep)
    llama.llama_backend_init()
    return llama


def version() -> str:
    """Return the name and version of the library, as saved states carry it."""
    return f"llama-cpp-python {need('llama_cpp', 'gguf').__version__}"


def last_complaint() -> str:
    """Return what llama.cpp last complained about, or an empty text."""
    return _log[-1] if _log else ""


class AbortSwitch:
    """A flag that llama.cpp reads between the nodes of its graph.

    The callback is the C library's `strlen` on a buffer: 0 characters means go on, 1 means stop.
    A Python callback would need the interpreter's lock about a thousand times per token.
    """

    def __init__(self, llama: Any) -> None:
        self._text = ctypes.create_string_buffer(2)
        strlen = ctypes.CDLL(None).strlen
        self.callback = ctypes.cast(strlen, llama.ggml_abort_callback)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def stop(self) -> None:
        """Make the running decode return soon. From any thread."""
        self._text[0] = b"\x01"

    def reset(self) -> None:
        """Let the next decode run."""
        self._text[0] = b"\x00"
