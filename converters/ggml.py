"""ggml: the quantisation functions of the library that llama-cpp-python ships, through ctypes.

They are internal functions of ggml, so `load` proves them before anyone relies on them: sizes,
a type that gguf-py can compute too, and the error after dequantising. It knows nothing of files.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.gguf_types import TENSOR_TYPES, TensorType

TYPE_IDS = {facts.name.lower(): type_id for type_id, facts in TENSOR_TYPES.items()}
LIBRARY_NAMES = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}

# Relative RMS error of normally distributed weights; a wrong layout gives errors near 1 or above.
SELF_TEST_ERRORS = {
    "q8_0": 0.01, "q6_k": 0.03, "q5_k": 0.05, "q5_0": 0.06,
    "q4_k": 0.09, "q4_0": 0.12, "iq4_nl": 0.10, "iq4_xs": 0.10,
}  # fmt: skip


class UnusableLibraryError(Exception):
    """The library is not there, or its functions are not the ones we know."""


def tensor_type(name: str) -> TensorType:
    """Return the facts of the type `name`, in lower case as in a recipe."""
    return TENSOR_TYPES[TYPE_IDS[name]]


def row_bytes(name: str, columns: int) -> int:
    """Return the bytes of a row of `columns` weights, which must be whole blocks."""
    facts = tensor_type(name)
    return columns // facts.block_elements * facts.block_bytes


class Ggml:
    """A loaded and proven library. Its methods may be called from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Load the library at `path`. Raises UnusableLibraryError; see `load` for the proof."""
        try:
            library = ctypes.CDLL(str(path))
            self._quantize_chunk = library.ggml_quantize_chunk
            self._validate = library.ggml_validate_row_data
            self._row_size = library.ggml_row_size
            self._requires_importance = library.ggml_quantize_requires_imatrix
        except (OSError, AttributeError) as error:
            raise UnusableLibraryError(f"{path}: {error}") from error
        self._quantize_chunk.restype = ctypes.c_size_t
        self._quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip
        self._validate.restype = ctypes.c_bool
        self._validate.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self._row_size.restype = ctypes.c_size_t
        self._row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self._requires_importance.restype = ctypes.c_bool
        self._requires_importance.argtypes = [ctypes.c_int]

    def quantise(
        self,
        rows: NDArray[np.float32],
        type_name: str,
        importance: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """Return `rows`, float32 of shape [rows, columns], in the type `type_name`.

        The result is uint8 of shape [rows, bytes of a row]. `importance`, float32 of shape
        [columns], weighs the error of each column. Raises InputError if a value cannot be held,
        ValueError for a shape or type that ggml would abort the process over.
        """
        count, columns = rows.shape
        facts = tensor_type(type_name)
        if columns % facts.block_elements:
            raise ValueError(
                f"a row of {columns} is not a multiple of {facts.block_elements} ({type_name})"
            )
        if self._requires_importance(TYPE_IDS[type_name]) and importance is None:
            raise ValueError(f"{type_name} cannot be made without importance")
        if importance is not None and importance.shape != (columns,):
            raise ValueError(f"importance has shape {importance.shape}, not ({columns},)")
        if not (np.isfinite(rows.min()) and np.isfinite(rows.max())):
            raise InputError("a weight is infinite or not a number")
        source = np.ascontiguousarray(rows, dtype=np.float32)
        weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
        result = np.empty((count, row_bytes(type_name, columns)), dtype=np.uint8)
        self._quantize_chunk(
            TYPE_IDS[type_name], source.ctypes.data, result.ctypes.data, 0, count, columns,
            None if weights is None else weights.ctypes.data,
        )  # fmt: skip
        if not self._validate(TYPE_IDS[type_name], result.ctypes.data, result.nbytes):
            raise InputError(f"a weight is too large for {type_name}")
        return result

    def row_size(self, type_name: str, columns: int) -> int:
        """Return the library's own idea of the bytes of a row."""
        return int(self._row_size(TYPE_IDS[type_name], columns))


def library_path() -> Path:
    """Return where llama-cpp-python keeps libggml-base, without importing the package.

    Raises MissingExtraError where the package is not installed.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        need("llama_cpp", "convert")  # raises, with the hint
        raise UnusableLibraryError("llama_cpp is not a package")
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    return folder / LIBRARY_NAMES.get(sys.platform, "libggml-base.so")


@cache
def load() -> Ggml:
    """Return the library, loaded once and proven. Raises UnusableLibraryError."""
    library = Ggml(library_path())
    self_test(library)
    return library


def self_test(library: Ggml) -> None:
    """Quantise a fixed block in several types and compare. Raises UnusableLibraryError."""
    import gguf

    weights = np.random.default_rng(20240917).standard_normal((3, 512), dtype=np.float32)
    for name, limit in SELF_TEST_ERRORS.items():
        if library.row_size(name, 512) != row_bytes(name, 512):
            raise UnusableLibraryError(f"a row of 512 in {name} has another size than expected")
        quantised = library.quantise(weights, name)
        restored = gguf.dequantize(quantised, gguf.GGMLQuantizationType[name.upper()])
        error = float(np.sqrt(np.mean((restored - weights) ** 2) / np.mean(weights**2)))
        if not error < limit:
            raise UnusableLibraryError(f"{name} has a relative error of {error:.3f}")
    expected = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    if not np.array_equal(library.quantise(weights, "q8_0"), expected):
        raise UnusableLibraryError("q8_0 differs from gguf-py's")
