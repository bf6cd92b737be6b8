"""What llama.cpp multiplies its matrices with: its eval callback, through ctypes.

llama.cpp calls back for every node of its computation graph. The layout of a node is internal to
ggml, so it is proved on a graph of our own before any is believed. It knows nothing of models.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.ggml import UnusableLibraryError, library_path
from converters.llama_quantize import silence
from edgekit.errors import InputError
from edgekit.extras import need

GGML_TYPE_F32 = 0
OBJECT_BYTES = 32  # what ggml keeps before each tensor of its own: struct ggml_object
MAX_DIMENSIONS, MAX_SOURCES, MAX_PARAMETER_BYTES, MAX_NAME_BYTES = 4, 10, 64, 64
Receive = Callable[[str, NDArray[np.float32]], None]


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as llama-cpp-python 0.3.36 compiles it."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMENSIONS),  # elements, the length of a row first
    ("nb", ctypes.c_size_t * MAX_DIMENSIONS),  # bytes from one to the next
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * (MAX_PARAMETER_BYTES // 4)),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * MAX_SOURCES),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME_BYTES),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
_Pointer = ctypes.POINTER(_Tensor)


class _InitParameters(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """An open model that reads windows of token ids, each from an empty context."""

    llama: Any
    context: Any
    batch: Any
    failures: list[Exception]

    def read(self, token_ids: Sequence[int]) -> None:
        """Compute every position of `token_ids`. Raises InputError where llama.cpp cannot."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        batch = self.batch
        batch.n_tokens = len(token_ids)
        for position, token in enumerate(token_ids):
            batch.token[position], batch.pos[position] = token, position
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
            batch.logits[position] = True  # without it the last layer would skip the position
        code = self.llama.llama_decode(self.context, batch)
        if self.failures:
            raise self.failures[0]
        if code != 0:
            raise InputError(f"llama.cpp could not read {len(token_ids)} tokens (code {code})")


@contextmanager
def listening(
    gguf_file: Path, window_tokens: int, threads: int, receive: Receive
) -> Iterator[Reader]:
    """Open the model in `gguf_file` and tell `receive` of every product with a matrix.

    It gets the matrix's name in the file and what it was multiplied with, float32 [positions,
    columns], which is only valid during the call. Windows have at most `window_tokens` tokens.
    The header must have been checked: see edgekit.gguf_header. Raises InputError.
    """
    llama = need("llama_cpp.llama_cpp", "convert")
    failures: list[Exception] = []
    callback = llama.ggml_backend_sched_eval_callback(_listener(receive, failures))
    with silence(llama), _model(llama, gguf_file) as model:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = window_tokens
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.cb_eval, parameters.no_perf = callback, True
        parameters.offload_kqv = parameters.op_offload = False
        context = llama.llama_init_from_model(model, parameters)
        if not context:
            raise InputError(f"llama.cpp cannot make a context of {window_tokens} tokens")
        batch = llama.llama_batch_init(window_tokens, 0, 1)
        try:
            yield Reader(llama, context, batch, failures)
        finally:
            llama.llama_batch_free(batch)
            llama.llama_free(context)


@contextmanager
def _model(llama: Any, gguf_file: Path) -> Iterator[Any]:
    parameters = llama.llama_model_default_params()
    # Repacked matrices would be multiplied with activations that are already rounded.
    parameters.use_extra_bufts = False
    parameters.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(gguf_file).encode(), parameters)
    if not model:
        raise InputError(f"llama.cpp cannot open {gguf_file}")
    try:
        yield model
    finally:
        llama.llama_model_free(model)


def _listener(receive: Receive, failures: list[Exception]) -> Callable[[int, bool, int], bool]:
    """Return the callback: asked first whether a node is wanted, then told that it is computed."""
    product = _product_operation()
    fetch = _library().ggml_backend_tensor_get

    def listen(address: int, asked: bool, _data: int) -> bool:
        node = ctypes.cast(address, _Pointer).contents
        matrix = node.src[0].contents if node.op == product else None
        wanted = matrix is not None and matrix.name.endswith(b".weight")
        if asked or matrix is None or not wanted:
            return wanted
        try:
            receive(matrix.name.decode(), _fetch(fetch, node.src[1]))
        except Exception as error:  # it cannot cross the C library
            failures.append(error)
        return not failures

    return listen


def _fetch(fetch: Any, pointer: Any) -> NDArray[np.float32]:
    """Return a tensor of float32 without gaps as [rows, columns]."""
    tensor = pointer.contents
    columns, *rest = tensor.ne
    rows = int(np.prod(rest))
    if tensor.type != GGML_TYPE_F32 or list(tensor.nb) != _strides(tensor.ne):
        raise InputError("llama.cpp multiplies with something else than float32 without gaps")
    values = np.empty((rows, columns), dtype=np.float32)
    fetch(pointer, values.ctypes.data, 0, values.nbytes)
    return values


def _strides(lengths: Sequence[int]) -> list[int]:
    strides = [4]
    for length in lengths[:-1]:
        strides.append(strides[-1] * length)
    return strides


@cache
def _library() -> Any:
    """Return libggml-base, with the functions that are used here. Raises UnusableLibraryError."""
    try:
        library = ctypes.CDLL(str(library_path()))
        library.ggml_init.restype = ctypes.c_void_p
        library.ggml_init.argtypes = [_InitParameters]
        library.ggml_free.argtypes = [ctypes.c_void_p]
        library.ggml_new_tensor_2d.restype = _Pointer
        library.ggml_new_tensor_2d.argtypes = [
            ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64,
        ]  # fmt: skip
        library.ggml_mul_mat.restype = _Pointer
        library.ggml_mul_mat.argtypes = [ctypes.c_void_p, _Pointer, _Pointer]
        library.ggml_set_name.restype = _Pointer
        library.ggml_set_name.argtypes = [_Pointer, ctypes.c_char_p]
        library.ggml_op_name.restype = ctypes.c_char_p
        library.ggml_op_name.argtypes = [ctypes.c_int]
        library.ggml_tensor_overhead.restype = ctypes.c_size_t
        library.ggml_backend_tensor_get.argtypes = [
            _Pointer, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t,
        ]  # fmt: skip
        library.ggml_backend_tensor_get.restype = None
    except (OSError, AttributeError) as error:
        raise UnusableLibraryError(f"libggml-base: {error}") from error
    return library


@cache
def _product_operation() -> int:
    """Prove the layout of `_Tensor` on a product of two matrices; return what `op` is there.

    Raises UnusableLibraryError.
    """
    library = _library()
    context = library.ggml_init(_InitParameters(1 << 16, None, True))
    try:
        matrix = library.ggml_new_tensor_2d(context, GGML_TYPE_F32, 7, 5)
        inputs = library.ggml_new_tensor_2d(context, GGML_TYPE_F32, 7, 3)
        library.ggml_set_name(matrix, b"blk.0.test.weight")
        node = library.ggml_mul_mat(context, matrix, inputs).contents
        sources = [ctypes.addressof(source.contents) for source in node.src[:2]]
        known = (
            sources == [ctypes.addressof(t.contents) for t in (matrix, inputs)]
            and list(node.ne) == [5, 3, 1, 1]
            and list(inputs.contents.nb) == _strides([7, 3, 1, 1])
            and matrix.contents.name == b"blk.0.test.weight"
            and not node.src[2]
            and library.ggml_op_name(node.op) == b"MUL_MAT"
        )
    finally:
        library.ggml_free(context)
    size = library.ggml_tensor_overhead() - OBJECT_BYTES
    if not known or size != ctypes.sizeof(_Tensor):
        raise UnusableLibraryError("libggml-base: its tensors are not as expected")
    return int(node.op)
