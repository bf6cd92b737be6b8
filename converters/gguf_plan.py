"""The plan of a GGUF file: every tensor's name, type and size, and every substitution."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from math import prod

from converters.architectures import ModelShape, Role, TensorSpec
from converters.ggml import row_bytes
from converters.gguf_presets import is_quantisable, legal_type, preset_type
from converters.plan import PlannedTensor
from converters.recipe import Recipe
from converters.schemes import scheme_named
from edgekit.artifact import Substitution
from edgekit.errors import InputError

ROPE_FACTORS = "rope_freqs.weight"
NAMES = {
    Role.EMBEDDING: "token_embd",
    Role.OUTPUT_NORM: "output_norm",
    Role.OUTPUT: "output",
    Role.ATTENTION_NORM: "attn_norm",
    Role.QUERY: "attn_q",
    Role.KEY: "attn_k",
    Role.VALUE: "attn_v",
    Role.ATTENTION_OUTPUT: "attn_output",
    Role.QUERY_NORM: "attn_q_norm",
    Role.KEY_NORM: "attn_k_norm",
    Role.FEED_FORWARD_NORM: "ffn_norm",
    Role.GATE: "ffn_gate",
    Role.UP: "ffn_up",
    Role.DOWN: "ffn_down",
}


def gguf_name(spec: TensorSpec) -> str:
    """Return the tensor's name in a GGUF file, such as `blk.3.ffn_up.weight`."""
    prefix = "" if spec.layer is None else f"blk.{spec.layer}."
    return f"{prefix}{NAMES[spec.role]}.{spec.part}"


def plan_tensors(
    shape: ModelShape, recipe: Recipe, *, calibrated: bool = False
) -> tuple[tuple[PlannedTensor, ...], tuple[Substitution, ...]]:
    """Return every tensor in the order of the file, and every type that a shape forbade.

    `calibrated` says that an importance matrix is at hand.
    Raises InputError if a pattern of the recipe matches no tensor whose type can be chosen.
    """
    tensors, substitutions = list(_computed(shape)), []
    unused = set(recipe.per_tensor)
    for spec in shape.tensors():
        pattern, asked = _asked_type(spec, shape, recipe, calibrated)
        unused.discard(pattern)
        used, why = legal_type(asked, spec.shape[-1])
        if why:
            substitutions.append(Substitution(gguf_name(spec), asked, used, why))
        tensors.append(_planned(gguf_name(spec), spec.name, used, spec.shape))
    if unused:
        raise InputError(
            f"recipe {recipe.name}: the pattern {min(unused)!r} of per_tensor matches no matrix",
            hint="patterns are matched against names like model.layers.0.mlp.down_proj.weight",
        )
    return tuple(tensors), tuple(substitutions)


def _asked_type(
    spec: TensorSpec, shape: ModelShape, recipe: Recipe, calibrated: bool
) -> tuple[str, str]:
    """Return the pattern that decided, or "", and the type before the shape is looked at."""
    if not is_quantisable(spec):
        return "", "f32"
    for pattern, chosen in recipe.per_tensor.items():
        if fnmatchcase(spec.name, pattern):
            return pattern, chosen
    scheme = scheme_named("gguf", recipe.scheme)
    return "", preset_type(scheme, spec, shape, calibrated=calibrated)


def _computed(shape: ModelShape) -> Iterator[PlannedTensor]:
    """Yield the tensors that no checkpoint holds."""
    if shape.rope_scaling is not None and shape.rope_scaling.kind == "llama3":
        yield _planned(ROPE_FACTORS, "", "f32", (shape.head_dim // 2,))


def _planned(name: str, source: str, type_name: str, shape: tuple[int, ...]) -> PlannedTensor:
    size = prod(shape[:-1]) * row_bytes(type_name, shape[-1])
    return PlannedTensor(name, source, type_name, shape, size)
