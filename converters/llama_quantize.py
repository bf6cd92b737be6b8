"""llama.cpp's public quantiser, file to file: the way that depends on no internal function."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.ggml import TYPE_IDS
from converters.plan import PlannedTensor
from converters.schemes import Scheme
from edgekit.errors import InputError
from edgekit.extras import need


def quantise_file(
    source: Path,
    destination: Path,
    scheme: Scheme,
    tensors: Sequence[PlannedTensor] = (),
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    threads: int = 0,
) -> None:
    """Quantise the GGUF file `source` into `destination` with `llama_model_quantize`.

    `tensors` fixes the type of each matrix; without it llama.cpp's rules for the scheme decide.
    `importance` has float32 [columns] for each matrix that is not to be rounded as it is.
    `threads` 0 uses every core. Raises InputError if llama.cpp refuses.
    """
    llama = need("llama_cpp.llama_cpp", "convert")
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = scheme.file_type
    parameters.nthread = threads
    overrides = _overrides(llama, tensors)
    if tensors:
        parameters.tt_overrides = overrides
    weights = _importance(llama, importance or {})
    if importance:
        parameters.imatrix = weights
    with silence(llama):
        code = llama.llama_model_quantize(
            str(source).encode(), str(destination).encode(), ctypes.byref(parameters)
        )
    if code != 0:
        raise InputError(f"llama.cpp cannot quantise {source} to {scheme.name} (code {code})")


def _overrides(llama: Any, tensors: Sequence[PlannedTensor]) -> Any:
    """Return a C array of patterns and types, ended by an empty entry."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2]
    array = (llama.llama_model_tensor_override * (len(matrices) + 1))()
    for entry, tensor in zip(array, matrices, strict=False):
        entry.pattern = f"^{re.escape(tensor.name)}$".encode()
        entry.type = TYPE_IDS[tensor.type]
    return array


def _importance(llama: Any, importance: Mapping[str, NDArray[np.float32]]) -> Any:
    """Return a C array of names and rows, ended by an empty entry. The rows must stay alive."""
    array = (llama.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, row) in zip(array, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = row.size
    return array


@contextmanager
def silence(llama: Any) -> Iterator[None]:
    """Drop llama.cpp's log, two lines for each tensor, and give the old receiver back."""
    receiver, data = llama.llama_log_callback(), ctypes.c_void_p()
    llama.llama_log_get(ctypes.byref(receiver), ctypes.byref(data))
    nobody = llama.llama_log_callback(lambda _level, _text, _data: None)
    llama.llama_log_set(nobody, None)
    try:
        yield
    finally:
        llama.llama_log_set(receiver, data)
