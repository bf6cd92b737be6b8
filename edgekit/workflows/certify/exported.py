"""Does the artifact say of its model what the checkpoint says? No weight is looked at here.

The file is read by `stored`, what is due comes from `expected`; this compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from converters.architectures import ModelShape, Role
from converters.checkpoint import Checkpoint
from converters.special_tokens import SpecialTokens
from edgekit.artifact import Artifact, Manifest
from edgekit.errors import EdgekitError
from edgekit.workflows.certify.expected import Expected, expect, rotary_tables
from edgekit.workflows.certify.stored import ModelFile, Said

FLOAT32_EPSILON = 1.2e-7
ROTARY_ERROR = 2e-3  # float32 angles of some thousand radians
SAMPLED_POSITIONS = 24
WORDS = {
    "layers": "layers",
    "hidden": "the width",
    "intermediate": "the feed-forward width",
    "heads": "attention heads",
    "kv_heads": "key-value heads",
    "head_dim": "a head's width",
    "value_dim": "a value head's width",
    "rotated_dim": "rotated elements of a head",
    "norm_epsilon": "the norms' epsilon",
    "rope_theta": "the rotary base (rope theta)",
    "context_length": "the context length",
    "vocabulary": "the vocabulary",
    "scale": "attention's scale",
    "window": "attention's window",
    "architecture": "the architecture",
}


def complaints(
    artifact: Artifact, file: ModelFile, checkpoint: Checkpoint, shape: ModelShape
) -> list[str]:
    """Return what the artifact says otherwise than the checkpoint, nothing where all agrees."""
    try:
        due = expect(checkpoint, shape, artifact.manifest.format)
        said = file.said()
        return [
            *_numbers(said, due),
            *_layers(said, shape),
            *_rope(said, due, shape),
            *_tensors(file, shape),
            *_tokenizer(said.tokenizer, file.expected_tokenizer(checkpoint, shape.vocabulary_size)),
            *_special(said.special, due.special),
            *_manifest(artifact.manifest, checkpoint, due.special, shape),
            *_template("its file has", said.chat_template, checkpoint.chat_template),
        ]
    except EdgekitError as error:
        return [error.message]


def _numbers(said: Said, due: Expected) -> Iterator[str]:
    for name, found in said.numbers.items():
        wanted = due.numbers.get(name)
        if found is None or wanted is None:
            continue
        if isinstance(found, list):
            yield from _per_layer(WORDS[name], found, wanted, due.numbers["layers"])
        elif not _same(found, wanted):
            yield f"{WORDS[name]}: the file says {_shown(found)}, the checkpoint {_shown(wanted)}"


def _per_layer(what: str, found: list[Any], wanted: Any, layers: int) -> Iterator[str]:
    """A number that the file has once for each layer: are there as many, and all right?"""
    if len(found) < layers:
        yield f"{what}: the file has {len(found)} entries for {layers} layers"
    elif wrong := [value for value in found if not _same(value, wanted)]:
        yield f"{what}: the file says {_shown(wrong[0])}, the checkpoint {_shown(wanted)}"


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return abs(found - wanted) <= FLOAT32_EPSILON * abs(wanted)  # stored as float32
    return bool(found == wanted)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value!s:.60}"


def _layers(said: Said, shape: ModelShape) -> Iterator[str]:
    if said.layers != list(range(shape.layers)):
        yield (
            f"the file holds {len(said.layers)} layers (numbers {said.layers[:1]} to "
            f"{said.layers[-1:]}), the checkpoint has {shape.layers}"
        )


def _rope(said: Said, due: Expected, shape: ModelShape) -> Iterator[str]:
    """Compare the file's table of rotations, or its scaling, with transformers' own."""
    if said.rope.cosines is not None and said.rope.sines is not None:
        count = len(said.rope.cosines)
        positions = np.unique(np.linspace(0, count - 1, SAMPLED_POSITIONS).astype(np.int64))
        tables = rotary_tables(due.config, positions)
        stored = (said.rope.cosines[positions], said.rope.sines[positions])
        error = max(float(np.abs(a - b).max()) for a, b in zip(tables, stored, strict=True))
        if not error <= ROTARY_ERROR:
            yield (
                f"the rotary table differs from the checkpoint's rope theta "
                f"{_shown(due.numbers['rope_theta'])} by {error:.3g}"
            )
        return
    kind = "none" if shape.rope_scaling is None else shape.rope_scaling.kind
    wanted = "none" if kind == "llama3" else kind  # llama3's factors are a tensor
    found = said.rope.scaling.get("type", "none")
    if found != wanted:
        yield f"rotary scaling: the file says {found}, the checkpoint {wanted}"
    elif shape.rope_scaling and wanted != "none":
        factor = said.rope.scaling.get("factor")
        if factor is None or not _same(factor, shape.rope_scaling.factor):
            yield f"rotary scaling: the factor is {factor}, not {shape.rope_scaling.factor}"


def _tensors(file: ModelFile, shape: ModelShape) -> Iterator[str]:
    held = file.names(shape)
    missing = [spec.name for spec in shape.tensors() if spec.name not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield f"the file has no {missing[0]}{more}"
    if unknown := file.unknown(shape):
        yield f"the file has a tensor {unknown[0]}, which is no part of the model"
    output = f"{Role.OUTPUT}.weight"
    if shape.tied_embeddings and output in held:
        yield from _own_head(file, shape)


def _own_head(file: ModelFile, shape: ModelShape) -> Iterator[str]:
    """A tied model's file may hold the head in a type of its own, but no other head."""
    from edgekit.workflows.certify.weights import head_specs, likeness

    head, embedding = (file.tensor(spec) for spec in head_specs(shape))
    if head is None or embedding is None:
        return
    found = likeness(embedding.values, head.values)
    if found.relative_error > 0.5:
        yield (
            "the checkpoint ties the output head to the embedding, the file has another head "
            f"(relative difference {found.relative_error:.2f})"
        )


def _tokenizer(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    for name, due in wanted.items():
        value = found.get(name)
        if value == due or (not value and not due):
            continue
        if isinstance(due, list) and isinstance(value, list):
            yield f"tokenizer, {name}: {_first_difference(value, due)}"
        elif isinstance(due, str):
            yield f"tokenizer, {name}: the file says {value!r:.60}, the checkpoint needs {due!r}"
        else:
            yield f"tokenizer, {name}: the file's is another than the checkpoint's"


def _first_difference(found: list[Any], wanted: list[Any]) -> str:
    if len(found) != len(wanted):
        return f"the file has {len(found)} entries, the checkpoint {len(wanted)}"
    index = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    count = sum(a != b for a, b in zip(found, wanted, strict=True))
    return f"entry {index} is {found[index]!r:.40}, not {wanted[index]!r:.40} ({count} differ)"


def _special(found: dict[str, Any], due: SpecialTokens) -> Iterator[str]:
    wanted = {"bos": due.bos, "eos": due.eos, "pad": due.pad, "add_bos": due.add_bos,
              "stop": list(due.stop)}  # fmt: skip
    for role, value in found.items():
        if value is None and role in ("pad", "add_bos"):
            continue
        if role == "ends":
            if not set(value) <= set(due.stop):
                yield f"the file's stop tokens are {value}, the checkpoint's {list(due.stop)}"
            continue
        if value != wanted[role]:
            yield f"special token {role}: the file says {value}, the checkpoint {wanted[role]}"


def _manifest(
    manifest: Manifest, checkpoint: Checkpoint, due: SpecialTokens, shape: ModelShape
) -> Iterator[str]:
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("bos_token_id", manifest.bos_token_id, due.bos),
        ("add_bos_token", manifest.add_bos_token, due.add_bos),
        ("stop_token_ids", manifest.stop_token_ids, list(due.stop)),
        ("vocabulary_size", manifest.vocabulary_size, shape.vocabulary_size),
        ("architecture", manifest.architecture, checkpoint.architecture),
    )
    for name, found, wanted in pairs:
        if found != wanted:
            yield f"the manifest's {name} is {found!r:.60}, the checkpoint's {wanted!r:.60}"
    yield from _template("the manifest has", manifest.chat_template, checkpoint.chat_template)


def _template(who: str, found: str | None, wanted: str | None) -> Iterator[str]:
    if (found or None) == (wanted or None):
        return
    if not found:
        yield f"the chat template is lost: {who} none"
    elif not wanted:
        yield f"{who} a chat template, the checkpoint none"
    else:
        yield f"{who} another chat template than the checkpoint"
