"""Reading a finished ONNX model back: is it what the recipe asked for?

The graph is judged by its own bytes, not by the code that wrote it: bits, block size and
coverage of every matrix, the place of every tensor, and a sample of each one's weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from converters.architectures import ModelShape, TensorSpec
from converters.checkpoint import Checkpoint
from converters.onnx_layout import ASYMMETRIC, BITS, Tensor, lay_out, output_matrix
from converters.onnx_quantize import BLOCK, Bits, dequantise_rows
from converters.recipe import Recipe
from converters.rounding.rounded import Rounded
from edgekit.onnx_header import check

SAMPLE_ROWS = 4
Array = NDArray[np.float32]
# How far a code may be from its weight, in steps of its block's scale: half a step by rounding,
# and with 4 bits more where the largest weight is clipped. A wrong row is off by many.
LARGEST_STEPS = {"int4": 2.0, ASYMMETRIC: 5.0, "int8": 0.75}
HALF_PRECISION, SMALLEST_HALF = 2.0**-11, 2.0**-24
QUANTISED_OPERATORS = ("MatMulNBits", "GatherBlockQuantized")
ZERO_POINTS = 3  # the input's place, for both


class OnnxMismatchError(Exception):
    """The file is not what was planned: a bug of edgekit or of a library, not of the input."""


def verify_onnx(
    path: Path,
    checkpoint: Checkpoint,
    shape: ModelShape,
    recipe: Recipe,
    rounded: Rounded | None = None,
) -> None:
    """Compare the model `path` with the checkpoint, the recipe and the rounding it was made from.

    Raises OnnxMismatchError, naming the tensor, what it should be and what it is.
    """
    check(path)
    model = onnx.load(path, load_external_data=False)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    users = _users(model)
    tensors = lay_out(shape, recipe).tensors
    for tensor in tensors.values():
        _stored_name(tensor, stored)
        if tensor.quantised:
            _check_operators(tensor, users, stored)
        elif len(tensor.shape) == 2:
            _check_not_quantised(tensor, users)
        if tensor.sources:
            _check_sample(path, tensor, stored, checkpoint, rounded)
    output = output_matrix(tensors)
    if not any(node.output[0] == "logits" for node in users.get(output.name, [])):
        raise OnnxMismatchError(f"{path}: logits are not made by {output.name}")


def _users(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that compute with each tensor of the layout, through any widening cast."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in {_plain_name(value) for value in node.input if value}:
            users.setdefault(name, []).append(node)
    return users


def _plain_name(value: str) -> str:
    for suffix in (".wide", ".scales", ".codes", ".rows", ".zero_points"):
        value = value.removesuffix(suffix)
    return value


def _stored_name(tensor: Tensor, stored: dict[str, TensorProto]) -> str:
    suffixes = (".codes", ".rows") if tensor.quantised else ("",)
    for suffix in suffixes:
        if tensor.name + suffix in stored:
            return tensor.name + suffix
    raise OnnxMismatchError(f"{tensor.name} should be stored as {tensor.type}; it is not there")


def _check_operators(
    tensor: Tensor, users: dict[str, list[onnx.NodeProto]], stored: dict[str, TensorProto]
) -> None:
    """Check that the matrix is used, and only by operators that read codes of its bits."""
    nodes = [n for n in users.get(tensor.name, []) if n.op_type != "Cast"]
    if not nodes:
        raise OnnxMismatchError(f"{tensor.name} is stored, and no operator uses it")
    for node in nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        found = (node.op_type in QUANTISED_OPERATORS, attributes.get("bits"),
                 attributes.get("block_size"))  # fmt: skip
        if found != (True, BITS[tensor.type], BLOCK):
            raise OnnxMismatchError(
                f"{tensor.name} should be read by {' or '.join(QUANTISED_OPERATORS)} with "
                f"{BITS[tensor.type]} bits in blocks of {BLOCK}; {node.name} has {attributes}"
            )
        if node.op_type == "MatMulNBits":
            rows, columns = tensor.shape
            if (attributes.get("N"), attributes.get("K")) != (rows, columns):
                raise OnnxMismatchError(f"{node.name} has not the shape {tensor.shape}")
        _check_zero_points(tensor, node)
    _check_shape(stored[f"{tensor.name}.scales"], (tensor.shape[0], tensor.shape[1] // BLOCK))
    if tensor.type == ASYMMETRIC:
        _check_shape(stored[f"{tensor.name}.zero_points"], tensor.zero_points_shape)


def _check_zero_points(tensor: Tensor, node: onnx.NodeProto) -> None:
    """Check that the operator has the matrix's zero points exactly where it should have any."""
    expected = f"{tensor.name}.zero_points" if tensor.type == ASYMMETRIC else ""
    found = node.input[ZERO_POINTS] if len(node.input) > ZERO_POINTS else ""
    if found != expected:
        raise OnnxMismatchError(
            f"{node.name} has the zero points {found!r}, {tensor.type} asks for {expected!r}"
        )


def _check_shape(stored: TensorProto, expected: tuple[int, int]) -> None:
    if tuple(stored.dims) != expected:
        raise OnnxMismatchError(f"{stored.name} has shape {list(stored.dims)}, not {expected}")


def _check_not_quantised(tensor: Tensor, users: dict[str, list[onnx.NodeProto]]) -> None:
    for node in users.get(tensor.name, []):
        if node.op_type in QUANTISED_OPERATORS:
            raise OnnxMismatchError(f"{tensor.name} should be {tensor.type}; {node.name} quantises")


def _check_sample(
    path: Path,
    tensor: Tensor,
    stored: dict[str, TensorProto],
    checkpoint: Checkpoint,
    rounded: Rounded | None,
) -> None:
    """Compare the last rows of each source, where a wrong offset or order shows."""
    last_row = 0
    for source in tensor.sources:
        last_row += source.shape[0]
        count = min(SAMPLE_ROWS, source.shape[0])
        wanted = _wanted(checkpoint, rounded, source, source.shape[0] - count, count)
        found, allowed = _rows(path, tensor, stored, last_row - count, count)
        error = np.abs(found.reshape(wanted.shape) - wanted)
        excess = error - allowed.reshape(wanted.shape)
        if not (excess <= 0).all():
            raise OnnxMismatchError(
                f"{tensor.name} differs from {source.name} by {error.flat[excess.argmax()]:.3g}, "
                f"{tensor.type} may differ by {allowed.flat[excess.argmax()]:.3g} there"
            )


def _wanted(
    checkpoint: Checkpoint, rounded: Rounded | None, source: TensorSpec, first: int, count: int
) -> Array:
    """Return rows of a source as they should be: as rounded or trained, else the checkpoint's."""
    if rounded is not None and source.name in rounded.blocks:
        return rounded.blocks[source.name].rows(first, count).weights()
    if rounded is not None and source.name in rounded.gains:
        return rounded.gains[source.name][first : first + count]
    return checkpoint.read(source.name, first, count)


def _rows(
    path: Path, tensor: Tensor, stored: dict[str, TensorProto], first: int, count: int
) -> tuple[Array, Array]:
    """Return rows of a stored tensor as the engine sees them, and how far each value may be off."""
    data = _read(path, stored[_stored_name(tensor, stored)], tensor.shape[0], first, count)
    if not tensor.quantised:
        values = data.view(np.float16 if tensor.type == "f16" else np.float32).astype(np.float32)
        precision, smallest = (HALF_PRECISION, SMALLEST_HALF) if tensor.type == "f16" else (0, 0)
        return values, np.abs(values) * np.float32(precision) + np.float32(smallest)
    bits: Bits = BITS[tensor.type]
    raw_scales = _read(path, stored[f"{tensor.name}.scales"], tensor.shape[0], first, count)
    scales = raw_scales.view(np.float16).reshape(count, -1)
    zero_points = None
    if tensor.type == ASYMMETRIC:
        place = stored[f"{tensor.name}.zero_points"]
        zero_points = _read(path, place, tensor.shape[0], first, count).reshape(count, -1)
    codes = data.reshape(count, -1, BLOCK * bits // 8)
    steps = np.abs(scales.astype(np.float32)).repeat(BLOCK, axis=1)
    allowed = steps * np.float32(LARGEST_STEPS[tensor.type])
    allowed += np.float32((1 << bits) * SMALLEST_HALF)
    return dequantise_rows(codes, scales, bits, zero_points), allowed


def _read(path: Path, proto: TensorProto, rows: int, first: int, count: int) -> NDArray[np.uint8]:
    """Read rows of a tensor from where the model file says that they are."""
    place = {entry.key: entry.value for entry in proto.external_data}
    row_bytes = int(place["length"]) // rows
    with (path.parent / place["location"]).open("rb") as stream:
        stream.seek(int(place["offset"]) + first * row_bytes)
        return np.frombuffer(stream.read(count * row_bytes), dtype=np.uint8)
