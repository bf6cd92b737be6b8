"""demo --train: the default model learns what edgekit is, and its artifacts are asked.

The data set is the package's own: fifty facts about edgekit, each asked in four ways; a fifth way
is held out. What was trained or converted before is reused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.files import FolderExistsError
from edgekit.progress import Progress
from edgekit.store import models
from edgekit.train.configuration import Configuration, read_configuration
from edgekit.train.loop import Tell
from edgekit.train.model_section import ModelSection
from edgekit.workflows.evaluate import Evaluated, Wanted, evaluate
from edgekit.workflows.pull import pull
from edgekit.workflows.train import convert_training, run_training
from edgekit.workflows.training_job import FineTuned

FOLDER = Path(__file__).parent.parent / "train" / "demonstration"
CONFIGURATION = FOLDER / "demonstration.toml"
RECIPES = ("gguf-q8_0", "gguf-q4_k_m", "onnx-int8", "onnx-int4")


@dataclass(frozen=True, slots=True)
class Asked:
    """An artifact of the trained checkpoint, and how it answered the held-out questions."""

    artifact: Artifact
    evaluated: Evaluated


@dataclass(frozen=True, slots=True)
class Learnt:
    """The trained checkpoint, whose record has the figures before and after, and its artifacts."""

    trained: FineTuned
    asked: list[Asked]


def demo_train(
    source: str,
    progress: Progress,
    say: Callable[[str], None],
    tell: Tell = lambda _standing: None,
    recipes: tuple[str, ...] = RECIPES,
) -> Learnt:
    """Pull `source`, train it on the demonstration's questions, convert it, ask each artifact.

    `say` gets a line of narration per step, `tell` how the training stands. Killed, the same call
    goes on where it was. Raises as `pull`, `run_training` and `evaluate` do.
    """
    say(f"pull {source}")
    pulled = pull(source, progress=progress).path
    configuration = replace(
        read_configuration(CONFIGURATION), model=ModelSection(str(pulled.absolute()))
    )
    say(f"train {pulled.name} on {CONFIGURATION}")
    trained = _trained(configuration, models() / f"{pulled.name}-edgekit", progress, tell)
    (held_out,) = configuration.data.evaluation_files
    wanted = Wanted(configuration.evaluate.answers, configuration.evaluate.answer_tokens)
    asked: list[Asked] = []
    for name in recipes:
        say(f"{name}: convert, ask")
        artifact = convert_training(trained, Recipe.named(name), progress, replace=True)
        asked.append(Asked(artifact, evaluate(str(artifact.path), held_out, wanted, progress)))
    return Learnt(trained, asked)


def _trained(configuration: Configuration, out: Path, progress: Progress, tell: Tell) -> FineTuned:
    try:
        return run_training(configuration, out, progress=progress, tell=tell)
    except FolderExistsError as error:
        raise FolderExistsError(
            error.message, hint="move it away: the demonstration writes there"
        ) from error
