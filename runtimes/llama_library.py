"""llama.cpp's C functions through llama-cpp-python, silenced, with a switch that stops a decode.

Knows nothing of tokens or caches: only how to load the library, with the backend that suits this
processor where the library brings several, and how to talk past it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import EngineFailure
from edgekit.extras import need
from runtimes import cpu_variants
from runtimes.cpu_variants import Variant

LOG_LINES_KEPT = 40
_LOG_LEVEL_WARN = 3
_LOG_LEVEL_ERROR = 4

_log: deque[str] = deque(maxlen=LOG_LINES_KEPT)
# ctypes frees a callback that nobody holds, and llama.cpp would go on calling it.
_held: list[Any] = []
_loaded: list[str] = []


def load(variant: str | None = None) -> Any:
    """Return the module of C functions, ready for use.

    `variant` names the backend to use if the library brings several; by default it is the one
    that was chosen for this processor, or else ggml's favourite. The first call decides for the
    process. Raises MissingExtraError, EngineFailure if no backend runs on this processor.
    """
    llama = _silenced()
    if not _loaded:
        _loaded.append(_load_backend(_folder(llama), variant))
        llama.llama_backend_init()
    return llama


@cache
def _silenced() -> Any:
    llama = need("llama_cpp.llama_cpp", "gguf")

    @llama.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def keep(level: int, text: bytes, user_data: Any) -> None:
        if level in (_LOG_LEVEL_WARN, _LOG_LEVEL_ERROR):
            _log.append(text.decode("utf-8", "replace").strip())

    llama.llama_log_set(keep, None)
    _held.append(keep)
    return llama


def variants() -> list[Variant]:
    """Return the backends that run here, ggml's favourite first; none if one is built in."""
    return cpu_variants.runnable(_folder(_silenced()))


def loaded_variant() -> str:
    """Return the name of the backend in use, or an empty text if it is built in."""
    return _loaded[0] if _loaded else ""


def _folder(llama: Any) -> Path:
    return Path(llama._lib._name).parent


def _load_backend(folder: Path, wanted: str | None) -> str:
    """Load one backend file, if there are any, and return the variant's name.

    Not ggml_backend_load_all: it also loads whatever GGML_BACKEND_PATH names, and looks for its
    files beside the Python interpreter.
    """
    if not any(folder.glob(cpu_variants.PATTERN)):
        return ""
    runnable = cpu_variants.runnable(folder)
    picked = cpu_variants.pick(runnable, cpu_variants.current_choice(), wanted)
    load_one = ctypes.CDLL(str(folder / "libggml.so")).ggml_backend_load
    load_one.restype, load_one.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    if picked is None or not load_one(str(picked.path).encode()):
        names = ", ".join(variant.name for variant in runnable) or "none"
        raise EngineFailure(
            f"llama.cpp has no backend '{wanted or 'any'}' that runs on this processor "
            f"(those that do: {names})",
            hint="install the bundle that was made for this device",
        )
    return picked.name


def version() -> str:
    """Return the name and version of the library, as saved states carry it."""
    return f"llama-cpp-python {need('llama_cpp', 'gguf').__version__}"


def last_complaint() -> str:
    """Return what llama.cpp last complained about, or an empty text."""
    # The line before says why.
    reasons = (line for line in reversed(_log) if not line.endswith("failed to load model"))
    return next(reasons, "")


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
