"""Checkpoint -> GGUF in one pass: each tensor is read in slabs of rows, quantised and written.

Nothing is held but a few slabs, so memory does not grow with the model. It decides nothing:
names and types come from the plan.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters import ggml, llama_quantize
from converters.architectures import ModelShape, Role, TensorSpec
from converters.checkpoint import Checkpoint
from converters.exported import Exported
from converters.gguf_metadata import (
    ARCHITECTURES,
    add_calibration,
    add_general,
    add_hyperparameters,
    add_vocabulary,
    check_supported,
    rope_factors,
)
from converters.gguf_plan import gguf_name, plan_tensors
from converters.gguf_vocabulary import read_vocabulary
from converters.importance import Importance, is_weighed
from converters.plan import Plan, PlannedTensor
from converters.recipe import Recipe
from converters.rounding.grids import put_together
from converters.rounding.rounded import Rounded
from converters.schemes import scheme_named
from converters.special_tokens import special_tokens
from edgekit.errors import InputError
from edgekit.files import disk_errors, require_space
from edgekit.progress import Advance, Progress

ENTRY = "model.gguf"
ALIGNMENT = 32
SLAB_WEIGHTS = 2 << 20  # 8 MiB of float32: two or three fit the cache of a core
MAX_WORKERS = 8  # each holds a slab and its source: bounds the memory
Floats = NDArray[np.float32]
Quantise = Callable[[Floats, str, Floats | None], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class GgufExport:
    """An export that is ready to run: its plan, and the header that the file begins with."""

    checkpoint: Checkpoint
    shape: ModelShape
    recipe: Recipe
    plan: Plan
    header: bytes
    importance: Importance | None
    rounded: Rounded | None


def prepare_gguf(
    checkpoint: Checkpoint,
    shape: ModelShape,
    recipe: Recipe,
    importance: Importance | None = None,
    rounded: Rounded | None = None,
) -> GgufExport:
    """Plan an export and build its header; no tensor is read.

    `importance` weighs the rounding errors; `rounded` holds matrices that are rounded already.
    Raises InputError for an importance that does not fit the model, and for what llama.cpp
    cannot run: see `gguf_metadata`, `gguf_vocabulary`.
    """
    check_supported(checkpoint, shape)
    if importance is not None:
        importance.check(shape)
    tensors, substitutions = plan_tensors(shape, recipe, calibrated=importance is not None)
    header = _header(checkpoint, shape, recipe, tensors, importance)
    file_bytes = len(header) + sum(_padded(tensor.bytes) for tensor in tensors)
    plan = Plan("gguf", recipe.scheme, tensors, substitutions, shape.parameters, file_bytes)
    return GgufExport(checkpoint, shape, recipe, plan, header, importance, rounded)


def write_gguf(export: GgufExport, folder: Path, progress: Progress) -> Exported:
    """Write `model.gguf` into `folder`. Raises InputError for weights that no type can hold.

    Where libggml's functions are not the known ones, llama.cpp's public quantiser does the
    work, from a float32 file that is removed afterwards; the tensors are the same.
    """
    try:
        write_tensors(export, folder / ENTRY, progress, ggml.load().quantise)
    except ggml.UnusableLibraryError:
        if export.rounded is not None:  # made by the library that is now not to be used
            raise
        write_through_llama(export, folder, progress)
    shape = export.shape
    return Exported(
        entry=ENTRY,
        bits_per_weight=export.plan.bits_per_weight,
        substitutions=list(export.plan.substitutions),
        kv_bytes_per_token=2 * 2 * shape.layers * shape.key_value_size,  # K and V, in float16
    )


def write_through_llama(export: GgufExport, folder: Path, progress: Progress) -> None:
    """Do the work of `write_tensors` with `llama_model_quantize` and a float32 file."""
    whole = Recipe.of("gguf", "f32")
    plain = prepare_gguf(export.checkpoint, export.shape, whole)
    require_space(folder, plain.plan.file_bytes + export.plan.file_bytes)
    intermediate = folder / "float32.gguf"
    write_tensors(plain, intermediate, progress, _as_float32)
    try:
        with progress.task("quantising with llama.cpp", None):
            scheme = scheme_named("gguf", export.recipe.scheme)
            llama_quantize.quantise_file(
                intermediate, folder / ENTRY, scheme, export.plan.tensors, _by_name(export)
            )
    finally:
        intermediate.unlink(missing_ok=True)


def write_tensors(export: GgufExport, path: Path, progress: Progress, quantise: Quantise) -> None:
    """Write the header and every tensor of the plan to `path`, quantised in worker threads."""
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    total = sum(export.checkpoint.info(spec.name).bytes for spec in export.shape.tensors())
    with (
        disk_errors(path.parent),
        path.open("wb", buffering=0) as stream,
        ThreadPoolExecutor(workers) as pool,
        progress.task(f"writing {export.recipe.scheme}", total) as advance,
    ):
        _write_all(stream, memoryview(export.header))
        jobs = (partial(pool.submit, job) for job in _jobs(export, quantise))
        for piece in _in_order(jobs, 2 * workers):
            _write(stream, piece, advance)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Finished bytes of the file, and the bytes of checkpoint that they took."""

    data: NDArray[np.uint8]
    padding: int
    source_bytes: int


def _write(stream: io.FileIO, piece: _Piece, advance: Advance) -> None:
    _write_all(stream, piece.data.data.cast("B"))
    _write_all(stream, memoryview(bytes(piece.padding)))
    advance(piece.source_bytes)


def _write_all(stream: io.FileIO, view: memoryview) -> None:
    while view:  # an unbuffered write may take a part only
        view = view[stream.write(view) :]


def _in_order(submits: Iterator[Callable[[], Future[_Piece]]], window: int) -> Iterator[_Piece]:
    """Yield results in the order of submission, with at most `window` of them in flight."""
    flying: deque[Future[_Piece]] = deque()
    try:
        for submit in submits:
            flying.append(submit())
            if len(flying) == window:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()


def _jobs(export: GgufExport, quantise: Quantise) -> Iterator[Callable[[], _Piece]]:
    """Yield the work in the order of the file: one job for each slab of rows."""
    specs = {gguf_name(spec): spec for spec in export.shape.tensors()}
    for tensor in export.plan.tensors:
        spec = specs.get(tensor.name)
        if spec is None:
            yield partial(_rope_piece, export.shape, tensor)
            continue
        rows = _slab_rows(tensor.shape, export.shape.head_dim)
        for first in range(0, tensor.shape[0], rows):
            yield partial(_piece, export, quantise, tensor, spec, first, rows)


def _slab_rows(shape: tuple[int, ...], head_dim: int) -> int:
    """Return how many rows a slab has: whole heads, so that each is reordered by itself."""
    if len(shape) == 1:
        return shape[0]
    return max(1, SLAB_WEIGHTS // shape[1] // head_dim) * head_dim


def _piece(
    export: GgufExport,
    quantise: Quantise,
    tensor: PlannedTensor,
    spec: TensorSpec,
    first: int,
    rows: int,
) -> _Piece:
    """Read, reorder and quantise `rows` rows of a tensor."""
    data = _rounded_rows(export, spec, first, rows)
    if data is None:
        data = _quantised_rows(export, quantise, tensor, spec, first, rows)
    last = first + rows >= tensor.shape[0]
    written = min(rows, tensor.shape[0] - first)
    source_bytes = export.checkpoint.info(spec.name).bytes * written // tensor.shape[0]
    return _Piece(data, _padded(tensor.bytes) - tensor.bytes if last else 0, source_bytes)


def _rounded_rows(
    export: GgufExport, spec: TensorSpec, first: int, rows: int
) -> NDArray[np.uint8] | None:
    """Return rows of a matrix that is rounded already, packed; None for any other tensor."""
    if export.rounded is None or spec.name not in export.rounded.blocks:
        return None
    packed = put_together(export.rounded.blocks[spec.name].rows(first, rows))
    return _in_order_of_pairs(export, spec, packed)


def _quantised_rows(
    export: GgufExport,
    quantise: Quantise,
    tensor: PlannedTensor,
    spec: TensorSpec,
    first: int,
    rows: int,
) -> NDArray[np.uint8]:
    weights = export.checkpoint.read(spec.name, first, rows)
    if export.rounded is not None and spec.name in export.rounded.gains:
        weights = export.rounded.gains[spec.name][first : first + rows]
    weights = _in_order_of_pairs(export, spec, weights)
    try:
        return quantise(weights.reshape(-1, tensor.shape[-1]), tensor.type, _counts(export, spec))
    except InputError as error:
        message = f"{export.checkpoint.path}: tensor {spec.name}: {error.message}"
        raise InputError(message, error.hint) from error


def _in_order_of_pairs(export: GgufExport, spec: TensorSpec, rows: NDArray[Any]) -> NDArray[Any]:
    """Return the rows of queries and keys as llama.cpp turns them; any others as they are."""
    if spec.role in (Role.QUERY, Role.KEY) and ARCHITECTURES[export.shape.family].adjacent_pairs:
        return interleave_halves(rows, export.shape.head_dim)
    return rows


def _rope_piece(shape: ModelShape, tensor: PlannedTensor) -> _Piece:
    factors = rope_factors(shape)
    assert factors is not None  # noqa: S101 - the plan lists it only where there are some
    return _Piece(factors.view(np.uint8), _padded(tensor.bytes) - tensor.bytes, 0)


def interleave_halves(weights: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Reorder the rows of each head, [a0 a1 .. b0 b1 ..] -> [a0 b0 a1 b1 ..].

    Rotary embeddings turn pairs of elements: (i, i + head_dim / 2) in transformers, neighbours
    in llama.cpp. `weights` has whole heads of `head_dim` rows, and any further dimensions.
    """
    halves = weights.reshape(-1, 2, head_dim // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weights.shape)


def _counts(export: GgufExport, spec: TensorSpec) -> Floats | None:
    """Return what each column counts, or None where all count the same."""
    if export.importance is None or not is_weighed(spec, export.shape):
        return None
    return export.importance.of(spec)


def _by_name(export: GgufExport) -> dict[str, Floats]:
    """Return what each column counts under the names of the GGUF file."""
    counts = {gguf_name(spec): _counts(export, spec) for spec in export.shape.tensors()}
    return {name: row for name, row in counts.items() if row is not None}


def _as_float32(rows: Floats, _type_name: str, _counts: Floats | None) -> NDArray[np.uint8]:
    if not np.isfinite(rows).all():
        raise InputError("a weight is infinite or not a number")
    return np.ascontiguousarray(rows).view(np.uint8)


def _header(
    checkpoint: Checkpoint,
    shape: ModelShape,
    recipe: Recipe,
    tensors: tuple[PlannedTensor, ...],
    importance: Importance | None,
) -> bytes:
    """Return all that comes before the tensor data, padded to the alignment."""
    import gguf
    from gguf.gguf_writer import WriterState

    vocabulary = read_vocabulary(checkpoint, shape.vocabulary_size)
    special = special_tokens(checkpoint, vocabulary.ids, shape.vocabulary_size)
    writer = gguf.GGUFWriter(None, ARCHITECTURES[shape.family].name)
    add_general(writer, checkpoint, scheme_named("gguf", recipe.scheme))
    if importance is not None:
        add_calibration(writer, importance)
    add_hyperparameters(writer, shape)
    add_vocabulary(writer, vocabulary, special)
    if checkpoint.chat_template:
        writer.add_chat_template(checkpoint.chat_template)
    for tensor in tensors:
        raw_type = gguf.GGMLQuantizationType(ggml.TYPE_IDS[tensor.type])
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_type
        )
    buffer = io.BytesIO()
    writer.fout, writer.state = [buffer], WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header = buffer.getvalue()
    return header + bytes(_padded(len(header)) - len(header))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
