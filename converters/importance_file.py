"""Importance matrices on disk, in llama.cpp's format: a GGUF file with two tensors for each matrix.

`NAME.in_sum2` holds the sums of squared activations, float32 [1, columns], and `NAME.counts` over
how many positions, float32 [1, 1] (llama.cpp's tools/imatrix). The names are those of the GGUF
model. Files of experts hold several rows for a matrix; edgekit has no such models.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape
from converters.gguf_plan import gguf_name
from converters.importance import CHUNK_TOKENS, Importance, matrices
from edgekit.errors import InputError
from edgekit.files import write_atomically
from edgekit.gguf_header import GgufTensor, read_header

KIND = "imatrix"
SUMS, COUNTS = ".in_sum2", ".counts"
HINT = "make one with edgekit calibrate, or llama-imatrix --output-format gguf"


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
    header = read_header(path)
    if header.metadata.get("general.type") != KIND:
        raise InputError(f"{path} is a GGUF file, but no importance matrix", HINT)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    data = np.memmap(path, mode="r", dtype=np.uint8)
    channels, counts = {}, []
    for spec in matrices(shape):
        name = gguf_name(spec)
        sums = _floats(path, data, tensors.get(f"{name}{SUMS}"))
        count = _floats(path, data, tensors.get(f"{name}{COUNTS}"))
        if sums is None or count is None or count.size != 1 or not count[0] > 0:
            raise InputError(f"{path} has no row for {name}", HINT)
        channels[spec.name] = sums / count[0]
        counts.append(float(count[0]))
    datasets = header.metadata.get("imatrix.datasets")
    source = ", ".join(map(str, datasets)) if isinstance(datasets, list) else path.name
    importance = Importance(channels, int(min(counts)), source)
    importance.check(shape)
    return importance


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
