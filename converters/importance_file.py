"""Importance matrices on disk, in llama.cpp's format: a GGUF file with two tensors for each matrix.

`NAME.in_sum2` holds the sums of squared activations, float32 [1, columns], and `NAME.counts` over
how many positions, float32 [1, 1] (llama.cpp's tools/imatrix). The names are those of the GGUF
model. Files of experts hold several rows for a matrix; edgekit has no such models. The format
that llama.cpp had before is read too: see `importance_legacy`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape
from converters.gguf_plan import gguf_name
from converters.importance import CHUNK_TOKENS, Importance, matrices
from converters.importance_legacy import read_legacy
from edgekit.errors import InputError
from edgekit.files import write_atomically
from edgekit.gguf_header import GgufTensor, read_header

KIND = "imatrix"
SUMS, COUNTS = ".in_sum2", ".counts"
MOST_TOKENS = 1e12
HINT = "make one with edgekit calibrate, or llama-imatrix --process-output"


def save_importance(importance: Importance, shape: ModelShape, path: Path) -> None:
    """Write `importance` to `path`, atomically, so that llama-quantize --imatrix reads it too."""
    import gguf
    from gguf.gguf_writer import WriterState

    writer = gguf.GGUFWriter(None, "llama")
    writer.kv_data[0].clear()  # the file is no model: an architecture would say that it is one
    writer.add_type(KIND)
    writer.add_array("imatrix.datasets", [importance.source])
    writer.add_uint32("imatrix.chunk_count", -(-importance.tokens // CHUNK_TOKENS))
    writer.add_uint32("imatrix.chunk_size", CHUNK_TOKENS)
    count = np.full((1, 1), importance.tokens, dtype=np.float32)
    for spec in sorted(matrices(shape), key=gguf_name):
        sums = importance.channels[spec.name][None, :] * np.float32(importance.tokens)
        writer.add_tensor(f"{gguf_name(spec)}{COUNTS}", count)
        writer.add_tensor(f"{gguf_name(spec)}{SUMS}", sums.astype(np.float32))
    buffer = io.BytesIO()
    writer.fout, writer.state = [buffer], WriterState.EMPTY  # type: ignore[list-item, unused-ignore]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    _pad(buffer, writer.data_alignment)
    for tensor in writer.tensors[0].values():
        assert tensor.tensor is not None  # noqa: S101 - added above
        buffer.write(tensor.tensor.tobytes())
        _pad(buffer, writer.data_alignment)
    write_atomically(path, buffer.getvalue())


def load_importance(path: Path, shape: ModelShape) -> Importance:
    """Read what `save_importance` or llama-imatrix wrote, for a model of `shape`.

    Raises InputError for another kind of file, a damaged one, and for a row that is missing or
    does not fit the model.
    """
    rows = _legacy_rows(path) if is_legacy(path) else _gguf_rows(path)
    channels = {}
    for spec in matrices(shape):
        if gguf_name(spec) not in rows.channels:
            raise InputError(f"{path} has no row for {gguf_name(spec)}", HINT)
        channels[spec.name] = rows.channels[gguf_name(spec)]
    importance = Importance(channels, rows.tokens, rows.source)
    importance.check(shape)
    return importance


def importance_facts(path: Path) -> dict[str, Any]:
    """Return what the file says of itself: source, tokens, and the channels of each row.

    Raises InputError for another kind of file and for a damaged one.
    """
    rows = _legacy_rows(path) if is_legacy(path) else _gguf_rows(path)
    return {
        "source": rows.source,
        "tokens": rows.tokens,
        "rows": {name: row.size for name, row in sorted(rows.channels.items())},
    }


def is_legacy(path: Path) -> bool:
    """Return whether the file does not begin as a GGUF file does. Raises InputError."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) != b"GGUF"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _legacy_rows(path: Path) -> Importance:
    """Return all rows under the names of the file, from llama.cpp's old format."""
    found = read_legacy(path)
    return Importance(found.rows, found.chunks * CHUNK_TOKENS, found.source or path.name)


def _gguf_rows(path: Path) -> Importance:
    """Return all rows under the names of the file, from a GGUF file."""
    header = read_header(path)
    if header.metadata.get("general.type") != KIND:
        raise InputError(f"{path} is a GGUF file, but no importance matrix", HINT)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    data = np.memmap(path, mode="r", dtype=np.uint8)
    channels, tokens = {}, []
    for name in (name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)):
        sums = _floats(path, data, tensors.get(f"{name}{SUMS}"))
        count = _floats(path, data, tensors.get(f"{name}{COUNTS}"))
        if sums is None or count is None or count.size != 1 or not 0 < count[0] < MOST_TOKENS:
            raise InputError(f"{path} has no usable count for {name}", HINT)
        channels[name] = sums / count[0]
        tokens.append(int(count[0]))
    datasets = header.metadata.get("imatrix.datasets")
    source = ", ".join(map(str, datasets)) if isinstance(datasets, list) else path.name
    return Importance(channels, min(tokens, default=0), source)


def _floats(
    path: Path, data: NDArray[np.uint8], tensor: GgufTensor | None
) -> NDArray[np.float32] | None:
    if tensor is None:
        return None
    if tensor.type_name != "F32":
        raise InputError(f"{path}: {tensor.name} is {tensor.type_name}, not F32", HINT)
    return np.frombuffer(data[tensor.offset :][: tensor.bytes].tobytes(), dtype=np.float32)


def _pad(buffer: io.BytesIO, alignment: int) -> None:
    buffer.write(bytes(-buffer.tell() % alignment))
