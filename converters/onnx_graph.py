"""The ONNX graph of a decoder, from its shape and the layout of its weights.

The operators are those that ONNX Runtime fuses to, and inputs and outputs have the names that
ONNX Runtime GenAI expects, so that a plain session and GenAI both run the model. No weights
pass through here: initialisers point into the data file.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from converters.architectures import ModelShape, Role
from converters.onnx_layout import (
    ASYMMETRIC,
    BITS,
    ROTARY_COSINES,
    ROTARY_SINES,
    Layout,
    Tensor,
    output_matrix,
)
from converters.onnx_quantize import BLOCK

CONTRIB = "com.microsoft"
OPSET, CONTRIB_OPSET = 21, 1
IR_VERSION = 10
INT8_COMPUTE = 4  # MatMulNBits, accuracy_level: activations become int8 too
BIAS_PLACE = 5  # among the inputs of MatMulNBits
FIRST_LOGIT = "first_logit"
END = (1 << 63) - 1
FLOAT_TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16}


def decoder_model(shape: ModelShape, layout: Layout, data_file: str) -> onnx.ModelProto:
    """Return the model; its weights are in `data_file`, beside it, as `layout` says.

    Inputs: `input_ids` int64 [1, new], `attention_mask` int64 [1, all] of ones,
    `past_key_values.N.key` and `.value` float32 [1, kv_heads, past, head_dim], and optionally
    `first_logit` int64 [1]: the first of the new positions whose logits are wanted, by default 0.
    Outputs: `logits` float32 [1, new - first_logit, vocabulary], `present.N.key` and `.value`.
    """
    return _Decoder(shape, layout, data_file).model()


class _Graph:
    """Collects nodes and initialisers; a value is known by its name."""

    def __init__(self, data_file: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._data_file = data_file

    def node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        *more_outputs: str,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node named after its first output, and return that."""
        outputs = [output, *more_outputs]
        name = f"{output}/{operator}"
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes)
        )
        return output

    def integers(self, name: str, *values: int, scalar: bool = False) -> str:
        """Add a small int64 constant; `scalar` gives it no dimension."""
        dims = [] if scalar else [len(values)]
        self.initializers[name] = helper.make_tensor(name, TensorProto.INT64, dims, values)
        return name

    def stored(self, name: str, dtype: int, dims: list[int], offset: int, size: int) -> str:
        """Add an initialiser that lies in the data file."""
        tensor = TensorProto(name=name, data_type=dtype, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._data_file, "offset": str(offset), "length": str(size)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self.initializers[name] = tensor
        return name

    def floats(self, tensor: Tensor) -> str:
        """Return the float32 values of a tensor that is stored as f32 or f16."""
        if tensor.name not in self.initializers:
            dims, size = list(tensor.shape), tensor.data_bytes
            self.stored(tensor.name, FLOAT_TYPES[tensor.type], dims, tensor.offset, size)
            if tensor.type == "f16":
                self._widened(tensor.name)
        return f"{tensor.name}.wide" if tensor.type == "f16" else tensor.name

    def codes(self, tensor: Tensor, suffix: str, dims: list[int]) -> str:
        """Return the codes of a quantised tensor, seen with the dimensions `dims`."""
        name = f"{tensor.name}.{suffix}"
        return self.stored(name, TensorProto.UINT8, dims, tensor.offset, tensor.data_bytes)

    def scales(self, tensor: Tensor) -> str:
        """Return the float32 scales of a quantised tensor."""
        name = f"{tensor.name}.scales"
        if name not in self.initializers:
            rows, columns = tensor.shape
            dims, size = [rows, columns // BLOCK], tensor.scales_bytes
            self.stored(name, TensorProto.FLOAT16, dims, tensor.scales_offset, size)
            self._widened(name)
        return f"{name}.wide"

    def zero_points(self, tensor: Tensor) -> list[str]:
        """Return the packed zero points of an asymmetric tensor, or nothing."""
        if tensor.type != ASYMMETRIC:
            return []
        name, dims = f"{tensor.name}.zero_points", list(tensor.zero_points_shape)
        place = (tensor.zero_points_offset, tensor.zero_points_bytes)
        return [self.stored(name, TensorProto.UINT8, dims, *place)]

    def _widened(self, name: str) -> None:
        # Folded into a constant when the model is loaded: half the bytes on disk, no work later.
        self.node("Cast", [name], f"{name}.wide", to=TensorProto.FLOAT)


class _Decoder:
    """Writes the layers of one model into a graph, in the order of computation."""

    def __init__(self, shape: ModelShape, layout: Layout, data_file: str) -> None:
        self.shape = shape
        self.tensors = layout.tensors
        self.graph = _Graph(data_file)

    def model(self) -> onnx.ModelProto:
        self._lengths()
        hidden: str | tuple[str, str] = self._embedding()
        for layer in range(self.shape.layers):
            hidden = self._layer(layer, hidden)
        self._logits(self._norm(hidden, f"{Role.OUTPUT_NORM}.weight", "final")[0])
        inputs, outputs = self._interface()
        initializers = list(self.graph.initializers.values())
        graph = helper.make_graph(self.graph.nodes, "decoder", inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, CONTRIB_OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgekit"
        )

    def _lengths(self) -> None:
        """Turn the mask into the two numbers that attention asks for, both int32."""
        graph = self.graph
        one, axis = graph.integers("one", 1, scalar=True), graph.integers("axis_1", 1)
        held = graph.node("ReduceSum", ["attention_mask", axis], "mask_sum", keepdims=0)
        last = graph.node("Sub", [held, one], "last_position")
        graph.node("Cast", [last], "last_position_int32", to=TensorProto.INT32)
        size = graph.node("Shape", ["attention_mask"], "mask_shape")
        total = graph.node("Gather", [size, one], "total_length", axis=0)
        graph.node("Cast", [total], "total_length_int32", to=TensorProto.INT32)

    def _embedding(self) -> str:
        table = self.tensors[f"{Role.EMBEDDING}.weight"]
        if not table.quantised:
            return self.graph.node("Gather", [self.graph.floats(table), "input_ids"], "embedded")
        rows, columns = table.shape
        bits = BITS[table.type]
        codes = self.graph.codes(table, "rows", [rows, columns * bits // 8])
        scales, zero_points = self.graph.scales(table), self.graph.zero_points(table)
        inputs = [codes, "input_ids", scales, *zero_points]
        return self.graph.node(
            "GatherBlockQuantized", inputs, "embedded",
            domain=CONTRIB, bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    def _layer(self, layer: int, hidden: str | tuple[str, str]) -> tuple[str, str]:
        """Add one layer; `hidden` is the residual, or the residual and what to add to it."""
        prefix = f"model.layers.{layer}."
        normed, residual = self._norm(hidden, f"{prefix}{Role.ATTENTION_NORM}.weight", prefix + "a")
        attended = self._attention(layer, prefix, normed)
        delta = self._linear(attended, f"{prefix}{Role.ATTENTION_OUTPUT}")
        names = (f"{prefix}{Role.FEED_FORWARD_NORM}.weight", prefix + "f")
        normed, residual = self._norm((residual, delta), *names)
        return residual, self._feed_forward(prefix, normed)

    def _norm(self, hidden: str | tuple[str, str], weight: str, name: str) -> tuple[str, str]:
        """Return the normalised sum and the sum itself."""
        gains = self.graph.floats(self.tensors[weight])
        epsilon = self.shape.rms_norm_epsilon
        normed = f"{name}.normed"
        if isinstance(hidden, str):
            self.graph.node(
                "SimplifiedLayerNormalization", [hidden, gains], normed,
                epsilon=epsilon, axis=-1, stash_type=1,
            )  # fmt: skip
            return normed, hidden
        self.graph.node(
            "SkipSimplifiedLayerNormalization", [*hidden, gains], normed,
            "", "", f"{name}.residual", domain=CONTRIB, epsilon=epsilon,
        )  # fmt: skip
        return normed, f"{name}.residual"

    def _attention(self, layer: int, prefix: str, normed: str) -> str:
        past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        lengths = ["last_position_int32", "total_length_int32"]
        table = [self.graph.floats(self.tensors[n]) for n in (ROTARY_COSINES, ROTARY_SINES)]
        shape = self.shape
        window = {} if shape.sliding_window is None else {"local_window_size": shape.sliding_window}
        return self.graph.node(
            "GroupQueryAttention",
            [*self._queries_keys_values(prefix, normed), *past, *lengths, *table],
            f"{prefix}attended",
            f"present.{layer}.key",
            f"present.{layer}.value",
            domain=CONTRIB,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.head_dim**-0.5,
            do_rotary=1,
            **window,
        )

    def _queries_keys_values(self, prefix: str, normed: str) -> list[str]:
        """Return three values, or one that holds all three and two empty names."""
        roles = (Role.QUERY, Role.KEY, Role.VALUE)
        names = [f"{prefix}{role}.out" for role in roles]
        if f"{prefix}self_attn.qkv_proj.weight" not in self.tensors:
            for role in roles:
                self._linear(normed, f"{prefix}{role}")
        else:
            stacked = self._linear(normed, f"{prefix}self_attn.qkv_proj")
            if not self.shape.qk_norm:
                return [stacked, "", ""]
            widths = (self.shape.query_size, self.shape.key_value_size, self.shape.key_value_size)
            sizes = self.graph.integers("qkv_widths", *widths)
            self.graph.node("Split", [stacked, sizes], *names, axis=-1)
        if self.shape.qk_norm:
            # attention on the CPU does not take these norms' gains as inputs of its own
            names[0] = self._head_norm(names[0], f"{prefix}{Role.QUERY_NORM}.weight")
            names[1] = self._head_norm(names[1], f"{prefix}{Role.KEY_NORM}.weight")
        return names

    def _head_norm(self, value: str, weight: str) -> str:
        """Normalise each head by itself; the value keeps its shape, [batch, new, all heads]."""
        graph, head_dim = self.graph, self.shape.head_dim
        split = graph.integers("split_heads", 0, 0, -1, head_dim)
        joined = graph.integers("join_heads", 0, 0, -1)
        heads = graph.node("Reshape", [value, split], f"{value}.heads")
        normed = self._norm(heads, weight, value)[0]
        return graph.node("Reshape", [normed, joined], f"{value}.joined")

    def _feed_forward(self, prefix: str, normed: str) -> str:
        graph = self.graph
        gate, up = f"{prefix}{Role.GATE}.out", f"{prefix}{Role.UP}.out"
        if f"{prefix}mlp.gate_up_proj.weight" in self.tensors:
            both = self._linear(normed, f"{prefix}mlp.gate_up_proj")
            graph.node("Split", [both], gate, up, axis=-1, num_outputs=2)
        else:
            self._linear(normed, f"{prefix}{Role.GATE}")
            self._linear(normed, f"{prefix}{Role.UP}")
        # QuickGelu(x) = x * sigmoid(alpha * x), which with alpha 1 is SiLU
        active = graph.node("QuickGelu", [gate], f"{prefix}mlp.silu", domain=CONTRIB, alpha=1.0)
        product = graph.node("Mul", [active, up], f"{prefix}mlp.product")
        return self._linear(product, f"{prefix}{Role.DOWN}")

    def _logits(self, normed: str) -> None:
        end, axis = self.graph.integers("end", END), self.graph.integers("axis_1", 1)
        self.graph.integers(FIRST_LOGIT, 0)
        wanted = self.graph.node("Slice", [normed, FIRST_LOGIT, end, axis], "wanted")
        self._multiply(wanted, output_matrix(self.tensors), None, "logits")

    def _linear(self, value: str, name: str) -> str:
        bias = self.tensors.get(f"{name}.bias")
        return self._multiply(value, self.tensors[f"{name}.weight"], bias, f"{name}.out")

    def _multiply(self, value: str, matrix: Tensor, bias: Tensor | None, output: str) -> str:
        """Multiply by the transposed matrix, whose rows make the outputs, and add the bias."""
        if not matrix.quantised:
            inputs = [value, self.graph.floats(matrix)]
            product = output if bias is None else f"{output}.unbiased"
            self.graph.node("FusedMatMul", inputs, product, domain=CONTRIB, transB=1)
            if bias is not None:
                self.graph.node("Add", [product, self.graph.floats(bias)], output)
            return output
        rows, columns = matrix.shape
        bits = BITS[matrix.type]
        codes = self.graph.codes(matrix, "codes", [rows, columns // BLOCK, BLOCK * bits // 8])
        zero_points = self.graph.zero_points(matrix)
        inputs = [value, codes, self.graph.scales(matrix), *zero_points]
        if bias is not None:
            inputs += [""] * (BIAS_PLACE - len(inputs)) + [self.graph.floats(bias)]
        return self.graph.node(
            "MatMulNBits", inputs, output, domain=CONTRIB,
            K=columns, N=rows, bits=bits, block_size=BLOCK, accuracy_level=INT8_COMPUTE,
        )  # fmt: skip

    def _interface(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        shape = self.shape
        inputs = [
            _value("input_ids", TensorProto.INT64, ["batch", "new"]),
            _value("attention_mask", TensorProto.INT64, ["batch", "all"]),
        ]
        outputs = [_value("logits", TensorProto.FLOAT, ["batch", "wanted", shape.vocabulary_size])]
        for layer in range(shape.layers):
            for part in ("key", "value"):
                past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
                before: list[int | str] = ["batch", shape.kv_heads, "past", shape.head_dim]
                after: list[int | str] = ["batch", shape.kv_heads, "present", shape.head_dim]
                inputs.append(_value(past, TensorProto.FLOAT, before))
                outputs.append(_value(present, TensorProto.FLOAT, after))
        # an input that has an initialiser has a default: callers that do not know it get all logits
        return [*inputs, _value(FIRST_LOGIT, TensorProto.INT64, [1])], outputs


def _value(name: str, dtype: int, dims: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)
