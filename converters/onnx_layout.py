"""The layout of an ONNX model's weights: which matrices, of which type, at which bytes.

It decides everything that the recipe leaves open and computes nothing: the graph, the writer
and the check all read the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from converters.architectures import ModelShape, Role, TensorSpec
from converters.onnx_quantize import BLOCK, Bits
from converters.plan import PlannedTensor
from converters.recipe import Recipe
from converters.schemes import scheme_named
from edgekit.artifact import Substitution
from edgekit.errors import InputError

ASYMMETRIC = "int4_asymmetric"
BITS: dict[str, Bits] = {"int4": 4, "int8": 8, ASYMMETRIC: 4}
ITEM_BYTES = {"f32": 4, "f16": 2}
SCALE_BYTES = 2
# Loaders map the file: a page's start for what is large, a cache line's for what is small.
PAGE, CACHE_LINE = 4096, 64
ROTARY_COSINES, ROTARY_SINES = "rotary.cosines", "rotary.sines"
# Matrices with one input, stacked so that one multiplication does the work of all.
STACKS = (("self_attn.qkv_proj", (Role.QUERY, Role.KEY, Role.VALUE)),
          ("mlp.gate_up_proj", (Role.GATE, Role.UP)))  # fmt: skip
# The norm whose output each matrix multiplies: its gains say how much each column matters.
INPUT_NORMS = {
    **dict.fromkeys((Role.QUERY, Role.KEY, Role.VALUE), Role.ATTENTION_NORM),
    **dict.fromkeys((Role.GATE, Role.UP), Role.FEED_FORWARD_NORM),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the model file: the rows of its `sources`, one after another.

    `type` is f32, f16, int8, int4 or int4_asymmetric. A quantised tensor has its codes at `offset`
    and, from `scales_offset` on, one float16 scale for each block of 32; an asymmetric one has,
    from `zero_points_offset` on, 4 bits for each block besides, every row in whole bytes. `bytes`
    counts all of it. `sources` are names of checkpoint tensors, none for a tensor that is
    computed. `gains` names the norm weights that scale the tensor's columns, "" where there are
    none.
    """

    name: str
    sources: tuple[TensorSpec, ...]
    shape: tuple[int, ...]
    type: str
    gains: str = ""
    offset: int = 0
    scales_offset: int = 0
    zero_points_offset: int = 0

    @property
    def quantised(self) -> bool:
        """Return whether the tensor is stored as codes and scales."""
        return self.type in BITS

    @property
    def data_bytes(self) -> int:
        """Return the size of the values or codes."""
        if self.quantised:
            return prod(self.shape) * BITS[self.type] // 8
        return prod(self.shape) * ITEM_BYTES[self.type]

    @property
    def scales_bytes(self) -> int:
        """Return the size of the scales, 0 where there are none."""
        return prod(self.shape) // BLOCK * SCALE_BYTES if self.quantised else 0

    @property
    def zero_points_bytes(self) -> int:
        """Return the size of the zero points, 0 where there are none."""
        return prod(self.zero_points_shape) if self.type == ASYMMETRIC else 0

    @property
    def zero_points_shape(self) -> tuple[int, int]:
        """Return rows and bytes of a row of the zero points of a matrix, two to a byte."""
        return self.shape[0], -(-(self.shape[-1] // BLOCK) // 2)

    @property
    def bytes(self) -> int:
        """Return the size of values or codes, scales and zero points, without padding."""
        return self.data_bytes + self.scales_bytes + self.zero_points_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Every tensor in the order of the data file, by name, and the size of that file.

    `substitutions` are the types that a shape forbade.
    """

    tensors: dict[str, Tensor]
    substitutions: tuple[Substitution, ...]
    data_bytes: int

    def planned(self) -> Iterator[PlannedTensor]:
        """Yield one entry for each checkpoint tensor, and for each tensor that is computed."""
        for tensor in self.tensors.values():
            if not tensor.sources:
                yield PlannedTensor(tensor.name, "", tensor.type, tensor.shape, tensor.bytes)
            for source in tensor.sources:
                size = tensor.bytes * source.shape[0] // tensor.shape[0]
                yield PlannedTensor(tensor.name, source.name, tensor.type, source.shape, size)


def lay_out(shape: ModelShape, recipe: Recipe) -> Layout:
    """Return the layout of the model that `recipe` asks for.

    Raises InputError if a pattern of the recipe matches no matrix.
    """
    specs = {spec.name: spec for spec in shape.tensors()}
    types, substitutions = _types(shape, recipe)
    tensors: dict[str, Tensor] = {}
    position = 0
    for tensor in (*_rotary(shape, recipe), *_tensors(shape, specs, types)):
        offset = _aligned(position, tensor.data_bytes)
        scales_offset = _aligned(offset + tensor.data_bytes, tensor.scales_bytes)
        zero_points_offset = _aligned(scales_offset + tensor.scales_bytes, tensor.zero_points_bytes)
        tensors[tensor.name] = replace(
            tensor,
            offset=offset,
            scales_offset=scales_offset,
            zero_points_offset=zero_points_offset,
        )
        position = zero_points_offset + tensor.zero_points_bytes
    return Layout(tensors, tuple(substitutions), position)


def output_matrix(tensors: dict[str, Tensor]) -> Tensor:
    """Return the matrix that makes logits: the embedding's own, where the two are shared."""
    return tensors.get(f"{Role.OUTPUT}.weight", tensors[f"{Role.EMBEDDING}.weight"])


def context_length(shape: ModelShape, recipe: Recipe) -> int:
    """Return how many positions the model gets: its own number, or fewer if the recipe says so."""
    return min(shape.context_length, recipe.context_length or shape.context_length)


def _aligned(position: int, size: int) -> int:
    alignment = PAGE if size >= 16 * PAGE else CACHE_LINE
    return -(-position // alignment) * alignment


def _types(shape: ModelShape, recipe: Recipe) -> tuple[dict[str, str], list[Substitution]]:
    """Return the type of every tensor by name, the tied output included, and substitutions."""
    asked, unused = {}, set(recipe.per_tensor)
    for spec in (*shape.tensors(), *_tied_output(shape)):
        pattern, asked[spec] = _asked_type(spec, recipe)
        unused.discard(pattern)
    if unused:
        raise InputError(
            f"recipe {recipe.name}: the pattern {min(unused)!r} of per_tensor matches no matrix",
            hint="patterns are matched against names like model.layers.0.mlp.down_proj.weight",
        )
    types = {spec.name: _legal_type(spec, name) for spec, name in asked.items()}
    substitutions = [
        Substitution(spec.name, name, types[spec.name], _why_not(spec))
        for spec, name in asked.items()
        if name != types[spec.name]
    ]
    return types, substitutions


def _legal_type(spec: TensorSpec, asked: str) -> str:
    return "f32" if asked in BITS and spec.shape[-1] % BLOCK else asked


def _why_not(spec: TensorSpec) -> str:
    return f"its rows of {spec.shape[-1]} are not whole blocks of {BLOCK}"


def _asked_type(spec: TensorSpec, recipe: Recipe) -> tuple[str, str]:
    """Return the pattern that decided, or "", and the type before the shape is looked at."""
    if len(spec.shape) < 2:
        return "", "f32"
    for pattern, chosen in recipe.per_tensor.items():
        if fnmatchcase(spec.name, pattern):
            return pattern, chosen
    scheme = scheme_named("onnx", recipe.scheme)
    if BITS.get(scheme.tensor_type) == 4 and spec.role in (Role.EMBEDDING, Role.OUTPUT):
        return "", "int8"  # measured: a 4-bit table adds a third to the divergence
    return "", scheme.tensor_type


def _tied_output(shape: ModelShape) -> list[TensorSpec]:
    """Return the output matrix that a tied model does not store but a pattern may name."""
    size = (shape.vocabulary_size, shape.hidden)
    return [TensorSpec(Role.OUTPUT, None, "weight", size)] if shape.tied_embeddings else []


def _rotary(shape: ModelShape, recipe: Recipe) -> Iterator[Tensor]:
    size = (context_length(shape, recipe), shape.head_dim // 2)
    yield Tensor(ROTARY_COSINES, (), size, "f32")
    yield Tensor(ROTARY_SINES, (), size, "f32")


def _tensors(
    shape: ModelShape, specs: dict[str, TensorSpec], types: dict[str, str]
) -> Iterator[Tensor]:
    """Yield the tensors of the checkpoint, stacked where one input and one type allow it."""
    stacks = [stack for layer in range(shape.layers) for stack in _stacks(layer, specs, types)]
    members = {spec.name: stack for stack in stacks for spec in stack.sources}
    done = set()
    for spec in specs.values():
        tensor = members.get(spec.name) or _single(spec, types)
        if tensor.name not in done:
            done.add(tensor.name)
            yield tensor
    embedding, output = f"{Role.EMBEDDING}.weight", f"{Role.OUTPUT}.weight"
    if shape.tied_embeddings and types[output] != types[embedding]:
        yield replace(_single(specs[embedding], types), name=output, type=types[output])


def _stacks(layer: int, specs: dict[str, TensorSpec], types: dict[str, str]) -> Iterator[Tensor]:
    prefix = f"model.layers.{layer}."
    for (name, roles), part in ((s, p) for s in STACKS for p in ("weight", "bias")):
        names = [f"{prefix}{role}.{part}" for role in roles]
        if names[0] not in specs or len({types[f"{prefix}{r}.weight"] for r in roles}) > 1:
            continue
        sources = tuple(specs[source] for source in names)
        size = (sum(s.shape[0] for s in sources), *sources[0].shape[1:])
        gains = _gains(sources[0])
        yield Tensor(f"{prefix}{name}.{part}", sources, size, types[names[0]], gains)


def _single(spec: TensorSpec, types: dict[str, str]) -> Tensor:
    return Tensor(spec.name, (spec,), spec.shape, types[spec.name], _gains(spec))


def _gains(spec: TensorSpec) -> str:
    """Return the name of the norm weights that scale the columns of `spec`, or ""."""
    norm = INPUT_NORMS.get(spec.role)
    if norm is None or spec.part == "bias":
        return ""
    return TensorSpec(norm, spec.layer, "weight", ()).name
