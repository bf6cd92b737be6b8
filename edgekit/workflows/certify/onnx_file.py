"""An ONNX model read back by onnx: what its graph says, and the weights it computes with.

Everything is taken from the operators' own attributes and inputs, as the operators' documents
define them, not from the layout that the exporter planned.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, Role, TensorSpec
from converters.checkpoint import Checkpoint
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.onnx_header import check
from edgekit.workflows.certify.stored import Floats, Rope, Said, StoredTensor

PAST = re.compile(r"past_key_values\.(\d+)\.key")
QUANTISED = ("MatMulNBits", "GatherBlockQuantized")
SUFFIXES = (".codes", ".rows")
ZERO_POINTS, ASYMMETRIC = 3, "_asymmetric"  # the input's place, and what a type is called with it
STACKS = {
    Role.QUERY: ("self_attn.qkv_proj", 0),
    Role.KEY: ("self_attn.qkv_proj", 1),
    Role.VALUE: ("self_attn.qkv_proj", 2),
    Role.GATE: ("mlp.gate_up_proj", 0),
    Role.UP: ("mlp.gate_up_proj", 1),
}
COSINES, SINES = 7, 8  # inputs of GroupQueryAttention
TOKENIZER_PARTS = ("model", "normalizer", "pre_tokenizer", "added_tokens", "post_processor")
TYPE_BITS = {"float32": 32, "float16": 16}


class OnnxFile:
    """One ONNX model and its companions; `stored.ModelFile` says what each method means."""

    def __init__(self, folder: Path, entry: Path, shape: ModelShape) -> None:
        """Check the graph and its data file, then parse it. Raises InputError."""
        check(entry)
        onnx = need("onnx", "convert")
        self._helper = onnx.helper
        try:
            self._model = onnx.load(entry, load_external_data=False)
        except Exception as error:  # protobuf's own exceptions have no common base
            raise InputError(f"onnx cannot read {entry}: {error}") from error
        self._folder = folder
        self._shape = shape
        self._stored = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._casts = {
            node.output[0]: node.input[0]
            for node in self._model.graph.node
            if node.op_type == "Cast" and node.input[0] in self._stored
        }

    def said(self) -> Said:
        genai = self._json("genai_config.json")
        return Said(
            numbers=self._numbers(genai),
            layers=sorted(int(m[1]) for v in self._model.graph.input if (m := PAST.match(v.name))),
            special=_special(genai),
            tokenizer=_parts(self._json("tokenizer.json")),
            chat_template=self._chat_template(),
            rope=self._rope(),
        )

    def _numbers(self, genai: dict[str, Any]) -> dict[str, Any]:
        attention = list(self._nodes("GroupQueryAttention"))
        past = next((v for v in self._model.graph.input if PAST.match(v.name)), None)
        logits = next(v for v in self._model.graph.output if v.name == "logits")
        epsilons = [self._attributes(n).get("epsilon") for n in self._norms()]
        heads = [self._attributes(node) for node in attention]
        sizes = [] if past is None else past.type.tensor_type.shape.dim
        return {
            "architecture": _inside(genai, "model", "type"),
            "layers": len(attention),
            "heads": _one([a.get("num_heads") for a in heads]),
            "kv_heads": _one([a.get("kv_num_heads") for a in heads]),
            "head_dim": sizes[3].dim_value if len(sizes) == 4 else None,
            "scale": _one([a.get("scale") for a in heads]),
            "window": _one([a.get("local_window_size", -1) for a in heads]),
            "norm_epsilon": _one(epsilons),
            "vocabulary": logits.type.tensor_type.shape.dim[2].dim_value,
        }

    def _norms(self) -> Iterator[Any]:
        for name in ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"):
            yield from self._nodes(name)

    def _nodes(self, operator: str) -> Iterator[Any]:
        return (node for node in self._model.graph.node if node.op_type == operator)

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {a.name: self._helper.get_attribute_value(a) for a in node.attribute}

    def _rope(self) -> Rope:
        node = next(self._nodes("GroupQueryAttention"), None)
        if node is None or len(node.input) <= SINES:
            return Rope()
        return Rope(
            cosines=self._array(self._plain(node.input[COSINES])).astype(np.float32),
            sines=self._array(self._plain(node.input[SINES])).astype(np.float32),
        )

    def _chat_template(self) -> str | None:
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
        template = self._json("tokenizer_config.json").get("chat_template")
        return template if isinstance(template, str) else None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            document = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{name} of the artifact cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"{name} of the artifact is not a JSON object")
        return document

    def names(self, shape: ModelShape) -> set[str]:
        return {spec.name for spec in (*shape.tensors(), _output(shape)) if self._place(spec)}

    def unknown(self, shape: ModelShape) -> list[str]:
        return []  # a graph's initialisers are what its operators use: the graph check saw to that

    def tensor(self, spec: TensorSpec) -> StoredTensor | None:
        place = self._place(spec)
        if place is None:
            return None
        name, first, rows = place
        whole, kind, bits = self._matrices(name)
        values = whole[first : first + rows]
        if values.shape != spec.shape:
            raise InputError(f"{name} holds {list(whole.shape)}, {list(spec.shape)} is asked of it")
        return StoredTensor(np.ascontiguousarray(values), kind, bits)

    def _place(self, spec: TensorSpec) -> tuple[str, int, int] | None:
        """Return the stored tensor that holds `spec`, its first row there and their number."""
        if self._holds(spec.name):
            return spec.name, 0, spec.shape[0]
        stack, index = STACKS.get(spec.role, ("", 0))
        name = f"model.layers.{spec.layer}.{stack}.{spec.part}"
        if not stack or not self._holds(name):
            return None
        shape = self._shape
        sizes = (shape.query_size, shape.key_value_size, shape.key_value_size)
        if stack.startswith("mlp"):
            sizes = (shape.intermediate, shape.intermediate, 0)
        return name, sum(sizes[:index]), sizes[index]

    def _holds(self, name: str) -> bool:
        return any(f"{name}{suffix}" in self._stored for suffix in ("", *SUFFIXES))

    def _matrices(self, name: str) -> tuple[Floats, str, int]:
        """Return a stored tensor whole, as float32, and how it is stored."""
        node = self._users.get(name)
        if node is None:
            values = self._array(name)
            kind = str(values.dtype)
            return values.astype(np.float32), kind, TYPE_BITS.get(kind, 32)
        bits = int(self._attributes(node)["bits"])
        asymmetric = len(node.input) > ZERO_POINTS and node.input[ZERO_POINTS]
        return self._dequantised(node, bits), f"int{bits}{ASYMMETRIC if asymmetric else ''}", bits

    @cached_property
    def _users(self) -> dict[str, Any]:
        """Return an operator that computes with each quantised tensor, by the tensor's name."""
        users = {}
        for operator, place in (("GatherBlockQuantized", 0), ("MatMulNBits", 1)):
            for node in self._nodes(operator):
                users[node.input[place].rsplit(".", 1)[0]] = node
        return users

    def _dequantised(self, node: Any, bits: int) -> Floats:
        """Return the weights of an operator: (code - zero point) * scale, block by block."""
        gather = node.op_type == "GatherBlockQuantized"
        inputs = [self._plain(name) for name in node.input]
        codes = self._array(inputs[0 if gather else 1])
        scales = self._array(inputs[2]).astype(np.float32)
        codes = unpacked(codes.reshape(len(codes), -1), bits).astype(np.float32)
        scales = scales.reshape(len(codes), -1)
        zero: Floats = np.full_like(scales, 1 << (bits - 1))
        if len(inputs) > ZERO_POINTS and inputs[ZERO_POINTS]:
            stored = self._array(inputs[ZERO_POINTS])
            if stored.dtype == np.uint8:
                stored = unpacked(stored.reshape(len(codes), -1), bits)[:, : scales.shape[1]]
            zero = stored.reshape(scales.shape).astype(np.float32)
        block = int(self._attributes(node)["block_size"])
        spread = np.repeat(np.stack([scales, zero]), block, axis=2)[:, :, : codes.shape[1]]
        with np.errstate(all="ignore"):  # broken scales overflow; the result is judged
            weights: Floats = (codes - spread[1]) * spread[0]
        return weights

    def _plain(self, name: str) -> str:
        """Return the stored tensor behind a value, through any cast to another float type."""
        return str(self._casts.get(name, name))

    def _array(self, name: str) -> NDArray[Any]:
        """Return a stored tensor from the data file. Raises InputError if it is not all there."""
        tensor = self._stored.get(name)
        if tensor is None:
            raise InputError(f"the graph stores no tensor {name}")
        dtype = self._helper.tensor_dtype_to_np_dtype(tensor.data_type)
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            data = tensor.raw_data
        else:
            with (self._folder / place["location"]).open("rb") as stream:
                stream.seek(int(place.get("offset", 0)))
                data = stream.read(int(place["length"]))
        count = int(np.prod(tensor.dims))
        if len(data) != count * dtype.itemsize:
            raise InputError(f"{name} has {len(data)} bytes, {count * dtype.itemsize} are due")
        return np.frombuffer(data, dtype=dtype).reshape(tuple(tensor.dims))

    def expected_tokenizer(self, checkpoint: Checkpoint, rows: int) -> dict[str, Any]:
        return _parts(checkpoint.tokenizer)


def unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return codes of 8, 4 or 2 bits, the first in the lowest bits: uint8, [rows, codes]."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(codes.reshape(len(packed), -1), dtype=np.uint8)


def _output(shape: ModelShape) -> TensorSpec:
    return TensorSpec(Role.OUTPUT, None, "weight", (shape.vocabulary_size, shape.hidden))


def _parts(tokenizer: dict[str, Any]) -> dict[str, Any]:
    return {name: tokenizer.get(name) for name in TOKENIZER_PARTS}


def _special(genai: dict[str, Any]) -> dict[str, Any]:
    return {"stop": _inside(genai, "model", "eos_token_id")}


def _inside(document: dict[str, Any], *keys: str) -> Any:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _one(values: list[Any]) -> Any:
    """Return the value that all operators share, or all values where they differ."""
    return values[0] if values and all(value == values[0] for value in values) else values
