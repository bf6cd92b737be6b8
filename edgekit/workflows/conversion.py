"""conversion: a checkpoint and a recipe become an artifact, with as much care as is asked for.

Calibration, rounding and export are the converters' work; this keeps what they share in the
store's cache and calls them in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.heads.model import kind_of
from converters.importance import Importance
from converters.plan import Plan
from converters.recipe import Recipe
from converters.rounding.rounded import Rounded
from edgekit.artifact import Artifact
from edgekit.errors import InputError, UsageError
from edgekit.progress import Progress
from edgekit.store import artifacts, cache

Care = Literal["plain", "calibrated", "compensated", "distilled"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to convert, and with how much care.

    `text` is the calibration text, without it the checkpoint's own; `importance` is a finished
    matrix in its place. `steps` of distillation, None for the usual number.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    care: Care = "plain"
    text: Path | None = None
    importance: Path | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.recipe.format == "torch" and (self.care != "plain" or self.importance):
            raise UsageError(
                "bitsandbytes' grids are rounded as bitsandbytes rounds them, without calibration",
                "leave out --calibrate, --compensate and --distil for torch",
            )
        if kind_of(self.checkpoint) and (self.care != "plain" or self.importance):
            raise UsageError(
                "a model with a head is quantised by ONNX Runtime, without calibration",
                "leave out --calibrate, --compensate, --distil and --importance",
            )

    @property
    def default_folder(self) -> Path:
        """Return where the store keeps the artifact."""
        return folder_in_store(self.checkpoint.path, self.recipe, self.care)


def folder_in_store(checkpoint: Path, recipe: Recipe, care: Care = "plain") -> Path:
    """Return where the store keeps the artifact of a checkpoint's folder, which need not exist."""
    suffix = "" if care == "plain" else f"-{care}"
    return artifacts() / f"{checkpoint.resolve().name}-{recipe.name}{suffix}"


def plan_request(request: Request, progress: Progress) -> Plan:
    """Return what `run_request` would write; nothing is rounded. Raises InputError."""
    return plan(request.checkpoint, request.recipe, _importance(request, progress))


def run_request(
    request: Request,
    out: Path,
    *,
    progress: Progress,
    replace: bool = False,
    announce: Callable[[Plan], None] | None = None,
) -> Artifact:
    """Convert into the folder `out` and return the artifact; see `converters.convert`.

    Raises InputError where `out` exists and `replace` is false, before any work.
    """
    if out.exists() and not replace:
        raise InputError(f"{out} exists already", "choose another folder, or add --replace")
    importance = _importance(request, progress)
    return convert(
        request.checkpoint,
        request.recipe,
        out,
        progress=progress,
        importance=importance,
        rounded=_rounded(request, importance, progress),
        replace=replace,
        announce=announce,
    )


def _importance(request: Request, progress: Progress) -> Importance | None:
    if request.importance is not None:
        from converters.importance_file import load_importance

        return load_importance(request.importance, describe(request.checkpoint))
    if request.care == "plain":
        return None
    from converters.calibrate import calibrate

    return calibrate(request.checkpoint, request.text, cache() / "importance", progress)


def _rounded(request: Request, importance: Importance | None, progress: Progress) -> Rounded | None:
    if importance is None or request.care in ("plain", "calibrated"):
        return None
    from converters.calibrate import calibration_windows, lesson_windows
    from converters.rounding.distil import Training
    from converters.rounding.pipeline import DEFAULT_STEPS, Work, round_checkpoint

    folder = cache() / "importance"
    text = (request.checkpoint, request.text, folder)
    windows = tuple(calibration_windows(*text, progress))
    planned = plan(request.checkpoint, request.recipe, importance)
    work = Work(request.checkpoint, planned, importance, windows)
    if request.care == "distilled":
        training = Training(request.steps or DEFAULT_STEPS)
        tokens = training.steps * training.tokens_per_step
        lessons = tuple(lesson_windows(*text, tokens, progress))
        work = replace(work, steps=training.steps, lessons=lessons)
    return round_checkpoint(work, cache() / "rounding", progress)
