"""plan, first half: the models that MODEL may become, as facts, from headers alone.

An artifact or a GGUF file is one model. A checkpoint is one for every scheme of the
formats that devices run, with the sizes that the converters plan; no weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from converters.architectures import ModelShape, describe
from converters.checkpoint import Checkpoint
from converters.convert import plan as plan_conversion
from converters.gguf_plan import plan_tensors
from converters.importance import Importance
from converters.plan import Plan, PlannedTensor
from converters.recipe import Recipe
from converters.schemes import SCHEMES
from devices.model_facts import TOKENIZER_FILE, ModelFacts
from edgekit.artifact import MANIFEST_NAME, Artifact, Format
from edgekit.errors import InputError
from edgekit.progress import Progress
from edgekit.store import artifacts, find_artifact, find_checkpoint, models

GGUF_ALIGNMENT = 32
# What a device can have. The torch format is for machines with a GPU, of which no plan knows.
DEVICE_FORMATS: tuple[Format, ...] = ("gguf", "onnx")


@dataclass(frozen=True, slots=True)
class Source:
    """What MODEL is: its name, whether it is still to be converted, and its possible forms.

    `left_out` maps a scheme to the reason why the converters refuse it.
    """

    name: str
    is_checkpoint: bool
    forms: tuple[ModelFacts, ...]
    left_out: dict[str, str]


def open_model(name_or_path: str, progress: Progress) -> Source:
    """Return what `name_or_path` is: a checkpoint, an artifact or a GGUF file.

    A name is looked up in the store, artifacts first. Raises InputError.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        facts = ModelFacts.of_gguf(path)
        return Source(path.name, False, (facts,), {})
    if _is_artifact(path, name_or_path):
        artifact = Artifact.open(find_artifact(name_or_path))
        return Source(artifact.manifest.name, False, (ModelFacts.of(artifact),), {})
    if not path.exists() and not (models() / name_or_path).is_dir():
        raise InputError(
            f"there is no checkpoint, artifact or .gguf file '{name_or_path}'",
            hint=f"the store holds: {', '.join(_held()) or 'nothing yet'}",
        )
    return _of_checkpoint(Checkpoint.open(find_checkpoint(name_or_path)), progress)


def _is_artifact(path: Path, name: str) -> bool:
    if path.exists():
        return (path / MANIFEST_NAME).is_file()
    return path.name == name and (artifacts() / name / MANIFEST_NAME).is_file()


def _held() -> list[str]:
    return sorted(
        folder.name
        for root in (artifacts(), models())
        if root.is_dir()
        for folder in root.glob("[!.]*")
    )


def _of_checkpoint(checkpoint: Checkpoint, progress: Progress) -> Source:
    shape = describe(checkpoint)
    forms: list[ModelFacts] = []
    left_out: dict[str, str] = {}
    recipes = [Recipe.of(kind, name) for kind in DEVICE_FORMATS for name in SCHEMES[kind]]
    with progress.task("planning", len(recipes), unit="schemes") as advance:
        plans = Plans(checkpoint, shape)
        for recipe in recipes:
            try:
                forms.append(facts_of_plan(checkpoint, shape, plans.plan(recipe)))
            except InputError as error:
                left_out[recipe.name] = error.message
            advance(1)
    if not forms:
        raise InputError(f"{checkpoint.path} fits no format: {next(iter(left_out.values()))}")
    return Source(checkpoint.path.resolve().name, True, tuple(forms), left_out)


class Plans:
    """Plans by the converters. GGUF headers hold the vocabulary, which is the same in each file.

    `importance` is as for the converters: some presets' types depend on it.
    """

    def __init__(
        self, checkpoint: Checkpoint, shape: ModelShape, importance: Importance | None = None
    ) -> None:
        self._checkpoint, self._shape, self._importance = checkpoint, shape, importance
        self._first: Plan | None = None

    def plan(self, recipe: Recipe) -> Plan:
        """Return the plan of one recipe; the second of a format costs milliseconds."""
        if recipe.format == "onnx" or self._first is None:
            found = plan_conversion(self._checkpoint, recipe, self._importance)
            if recipe.format == "gguf":
                self._first = found
            return found
        calibrated = self._importance is not None
        tensors, substitutions = plan_tensors(self._shape, recipe, calibrated=calibrated)
        header = self._first.file_bytes - _padded_bytes(self._first.tensors)
        file_bytes = header + _padded_bytes(tensors)
        weights = self._shape.parameters
        return Plan("gguf", recipe.scheme, tensors, substitutions, weights, file_bytes)


def _padded_bytes(tensors: tuple[PlannedTensor, ...]) -> int:
    return sum(-(-tensor.bytes // GGUF_ALIGNMENT) * GGUF_ALIGNMENT for tensor in tensors)


def facts_of_plan(checkpoint: Checkpoint, shape: ModelShape, planned: Plan) -> ModelFacts:
    """Return what the model of a plan will be, for estimates of its memory and speed."""
    weights: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for tensor in _block_matrices(planned):
        weights[tensor.type] = weights.get(tensor.type, 0) + prod(tensor.shape)
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.bytes
    embedding = next(t for t in planned.tensors if t.name.startswith(EMBEDDINGS))
    output = next((t for t in planned.tensors if t.name.startswith(OUTPUTS)), embedding)
    is_gguf = planned.format == "gguf"
    return ModelFacts(
        name=f"{checkpoint.path.resolve().name}-{planned.format}-{planned.scheme}",
        format=planned.format,
        scheme=planned.scheme,
        parameters=shape.parameters,
        weight_bytes=planned.tensor_bytes,
        file_bytes=planned.file_bytes,
        layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        vocabulary_size=shape.vocabulary_size,
        # keys and values, in float16 for llama.cpp and in float32 for ONNX Runtime
        kv_bytes_per_token=2 * (2 if is_gguf else 4) * shape.layers * shape.key_value_size,
        context_length=shape.usable_context if is_gguf else shape.context_length,
        block_weights=weights,
        block_bytes=sizes,
        output_type=output.type,
        output_weights=prod(output.shape),
        output_bytes=output.bytes,
        embedding_bytes=embedding.bytes,
        tied=output is embedding,
        tokenizer_bytes=0 if is_gguf else _size(checkpoint.path / TOKENIZER_FILE),
    )


EMBEDDINGS = ("token_embd.weight", "model.embed_tokens.weight")
OUTPUTS = ("output.weight", "lm_head.weight")


def _block_matrices(planned: Plan) -> Iterator[PlannedTensor]:
    for tensor in planned.tensors:
        inside = tensor.name.startswith(("blk.", "model.layers."))
        if inside and len(tensor.shape) > 1:
            yield tensor


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
