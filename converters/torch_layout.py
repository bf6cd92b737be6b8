"""The layout of a torch model's weights: which tensors, of which type, at which bytes.

bitsandbytes quantises the layers' matrices; embedding, head and norms stay in float. It decides
everything that the recipe leaves open and computes no weight: the plan and the writer read the
same layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from converters.architectures import ModelShape, TensorSpec
from converters.plan import PlannedTensor
from converters.recipe import Recipe
from converters.schemes import scheme_named
from edgekit.artifact import Substitution
from edgekit.bitsandbytes_layout import FLOAT_NAMES, KINDS, FloatName, Kind, Part, parts
from edgekit.errors import InputError
from edgekit.safetensors_header import ITEM_BYTES

FLOATS: dict[str, FloatName] = {"f32": "float32", "bf16": "bfloat16"}
# What is not quantised: twice as exact costs twice the bytes, and the checkpoints are bfloat16.
FLOAT_BESIDE_CODES = "bf16"
OUTPUT_MODULE = "lm_head"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the checkpoint: its `type` (f32, bf16, int8, nf4) and what is stored of it.

    `parts` maps names of the file to dtype and shape; a matrix has its codes first.
    """

    spec: TensorSpec
    type: str
    parts: dict[str, Part]

    @property
    def kind(self) -> Kind | None:
        """Return the type if it is one of bitsandbytes', else None."""
        return next((kind for kind in KINDS if kind == self.type), None)

    @property
    def bytes(self) -> int:
        """Return the size of all parts."""
        return sum(_bytes(part) for part in self.parts.values())


@dataclass(frozen=True, slots=True)
class Layout:
    """Every tensor, the substitutions, and the file's header with the parts' offsets.

    `offsets` are from the start of the file. `kept_modules` are the matrices of the layers that
    the recipe keeps in float, and the head.
    """

    float_name: FloatName
    kind: Kind | None
    tensors: tuple[Tensor, ...]
    substitutions: tuple[Substitution, ...]
    header: bytes
    offsets: dict[str, int]
    file_bytes: int
    kept_modules: tuple[str, ...]

    def planned(self) -> Iterator[PlannedTensor]:
        """Yield one entry for each tensor of the checkpoint."""
        for tensor in self.tensors:
            name, shape = tensor.spec.name, tensor.spec.shape
            yield PlannedTensor(name, name, tensor.type, shape, tensor.bytes)


def lay_out(shape: ModelShape, recipe: Recipe) -> Layout:
    """Return the layout of the model that `recipe` asks for.

    Raises InputError if a pattern of the recipe matches no matrix, or asks for a second
    quantised type.
    """
    scheme = scheme_named("torch", recipe.scheme).tensor_type
    kind = next((kind for kind in KINDS if kind == scheme), None)
    beside = FLOAT_BESIDE_CODES if kind else scheme
    asked = _asked_types(shape, recipe, scheme, beside)
    tensors = tuple(_tensor(spec, asked[spec], beside) for spec in shape.tensors())
    header, offsets, file_bytes = _place(tensors)
    return Layout(
        float_name=FLOATS[beside],
        kind=kind,
        tensors=tensors,
        substitutions=tuple(_substitutions(tensors, asked)),
        header=header,
        offsets=offsets,
        file_bytes=file_bytes,
        kept_modules=tuple(_kept_modules(tensors)),
    )


def _asked_types(
    shape: ModelShape, recipe: Recipe, scheme: str, beside: str
) -> dict[TensorSpec, str]:
    """Return the type that the recipe asks of each tensor, whether or not it can have it."""
    unused = set(recipe.per_tensor)
    asked = {}
    for spec in shape.tensors():
        asked[spec] = scheme
        if len(spec.shape) < 2:
            continue
        for pattern, chosen in recipe.per_tensor.items():
            if fnmatchcase(spec.name, pattern):
                _require_one_type(recipe, pattern, chosen, (scheme, beside))
                unused.discard(pattern)
                asked[spec] = chosen
                break
    if unused:
        raise InputError(
            f"recipe {recipe.name}: the pattern {min(unused)!r} of per_tensor matches no matrix",
            hint="patterns are matched against names like model.layers.0.mlp.down_proj.weight",
        )
    return asked


def _require_one_type(recipe: Recipe, pattern: str, chosen: str, possible: tuple[str, str]) -> None:
    if chosen not in possible:
        raise InputError(
            f"recipe {recipe.name}: {pattern!r} asks for {chosen}; beside {possible[0]} a torch "
            f"model can hold {possible[1]}",
            hint="transformers loads one quantised type and one float type",
        )


def _tensor(spec: TensorSpec, asked: str, beside: str) -> Tensor:
    for kind in KINDS:
        if asked == kind and _is_layer_matrix(spec):
            rows, columns = spec.shape
            return Tensor(spec, kind, parts(spec.name, rows, columns, kind, FLOATS[beside]))
    return Tensor(spec, beside, {spec.name: (FLOAT_NAMES[FLOATS[beside]], spec.shape)})


def _is_layer_matrix(spec: TensorSpec) -> bool:
    return spec.layer is not None and len(spec.shape) > 1


def _substitutions(
    tensors: tuple[Tensor, ...], asked: dict[TensorSpec, str]
) -> Iterator[Substitution]:
    for tensor in tensors:
        wanted = asked[tensor.spec]
        if wanted != tensor.type:
            why = "bitsandbytes quantises the layers' matrices only"
            yield Substitution(tensor.spec.name, wanted, tensor.type, why)


def _kept_modules(tensors: tuple[Tensor, ...]) -> Iterator[str]:
    """Yield what must not be replaced by a quantised module when transformers loads the model."""
    for tensor in tensors:
        if _is_layer_matrix(tensor.spec) and tensor.kind is None:
            yield tensor.spec.name.removesuffix(".weight")
    yield OUTPUT_MODULE


def _place(tensors: tuple[Tensor, ...]) -> tuple[bytes, dict[str, int], int]:
    """Return the file's header, the offset of each part, and the file's size.

    Wide items come first, so that each part begins at a multiple of its item's size.
    """
    every = [(name, part) for tensor in tensors for name, part in tensor.parts.items()]
    every.sort(key=lambda item: -ITEM_BYTES[item[1][0]])
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    position = 0
    for name, (dtype, shape) in every:
        starts[name] = position
        end = position + _bytes((dtype, shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return header, offsets, len(header) + position


def _bytes(part: Part) -> int:
    dtype, shape = part
    return prod(shape) * ITEM_BYTES[dtype]
