"""The pipeline: a checkpoint and a recipe become a finished artifact, or nothing at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib.metadata import version
from pathlib import Path

from converters.architectures import ModelShape, describe
from converters.checkpoint import Checkpoint
from converters.exported import Exported
from converters.heads.model import kind_of
from converters.importance import Importance
from converters.plan import Plan
from converters.recipe import Recipe
from converters.rounding.rounded import Rounded
from converters.special_tokens import SpecialTokens, special_tokens, token_ids
from edgekit.artifact import Artifact, Format, Manifest, Source, finish
from edgekit.errors import InputError, UsageError
from edgekit.files import require_space, staged_folder
from edgekit.progress import Progress

Write = Callable[[Path, Progress], Exported]
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*")
TOOLS: dict[Format, tuple[str, ...]] = {
    "gguf": ("edgekit", "gguf", "llama-cpp-python"),
    "onnx": ("edgekit", "onnx", "onnxruntime"),
    "torch": ("edgekit", "numpy"),
}


def plan(checkpoint: Checkpoint, recipe: Recipe, importance: Importance | None = None) -> Plan:
    """Return what `convert` would write: types, sizes, substitutions. No tensor is read.

    Raises InputError for a checkpoint or recipe that cannot be converted, UsageError for one with
    a head, whose graph is known only once it is made.
    """
    if kind_of(checkpoint) is not None:
        raise UsageError(f"{checkpoint.path} has a head: what it becomes is not known beforehand")
    return _prepare(checkpoint, describe(checkpoint), recipe, importance)[0]


def convert(
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    *,
    progress: Progress,
    importance: Importance | None = None,
    rounded: Rounded | None = None,
    replace: bool = False,
    announce: Callable[[Plan], None] | None = None,
) -> Artifact:
    """Convert `checkpoint` by `recipe` into the artifact folder `out` and return it.

    `importance` weighs the rounding errors: see `converters.calibrate`. `rounded` holds matrices
    that are rounded already for this plan: see `converters.rounding.pipeline`.
    `announce` is told the plan before any work is done. Killed at any moment, it leaves no `out`
    or a whole one. Raises InputError for a bad checkpoint or recipe, and where `out` exists and
    `replace` is false; GateError where the disk is too small.
    """
    kind = kind_of(checkpoint)
    if kind is not None:
        from converters.heads.convert import convert_headed

        return convert_headed(checkpoint, kind, recipe, out, progress=progress, replace=replace)
    shape = describe(checkpoint)
    context_length = _context_length(checkpoint, shape, recipe)
    special = special_tokens(checkpoint, token_ids(checkpoint), shape.vocabulary_size)
    planned, write = _prepare(checkpoint, shape, recipe, importance, rounded)
    if announce is not None:
        announce(planned)
    require_space(out.parent, planned.file_bytes)
    with staged_folder(out, replace=replace) as folder:
        digest = _in_background(checkpoint.digest)
        exported = write(folder, progress)
        copy_licence(checkpoint.path, folder)
        source = Source(
            checkpoint=checkpoint.path.resolve().name,
            checkpoint_digest=digest.result(),
            licence=checkpoint.licence,
            recipe=recipe.to_dict() | _calibration(importance) | _rounding(rounded),
            tools={tool: version(tool) for tool in TOOLS[recipe.format]},
        )
        finish(folder, _manifest(checkpoint, shape, special, context_length, exported, source))
    return Artifact.open(out)


def _prepare(
    checkpoint: Checkpoint,
    shape: ModelShape,
    recipe: Recipe,
    importance: Importance | None,
    rounded: Rounded | None = None,
) -> tuple[Plan, Write]:
    """Return the plan, and the function that carries it out in a folder."""
    match recipe.format:
        case "gguf":
            from converters.export_gguf import prepare_gguf, write_gguf

            export = prepare_gguf(checkpoint, shape, recipe, importance, rounded)
            return export.plan, partial(write_gguf, export)
        case "onnx":
            from converters.export_onnx import export_onnx, plan_onnx

            planned = plan_onnx(checkpoint, shape, recipe)
            return planned, partial(export_onnx, checkpoint, shape, recipe, importance, rounded)
        case "torch":
            from converters.export_torch import export_torch, plan_torch

            planned = plan_torch(checkpoint, shape, recipe, importance)
            return planned, partial(export_torch, checkpoint, shape, recipe)


def _manifest(
    checkpoint: Checkpoint,
    shape: ModelShape,
    special: SpecialTokens,
    context_length: int,
    exported: Exported,
    source: Source,
) -> Manifest:
    return Manifest(
        name=f"{source.checkpoint}-{source.recipe['name']}",
        format=source.recipe["format"],
        scheme=str(source.recipe["scheme"]),
        entry=exported.entry,
        architecture=checkpoint.architecture,
        parameters=shape.parameters,
        vocabulary_size=shape.vocabulary_size,
        context_length=context_length,
        kv_bytes_per_token=exported.kv_bytes_per_token,
        bits_per_weight=exported.bits_per_weight,
        bos_token_id=special.bos,
        add_bos_token=special.add_bos,
        stop_token_ids=list(special.stop),
        chat_template=checkpoint.chat_template,
        files=[],
        source=source,
        substitutions=exported.substitutions,
    )


def _calibration(importance: Importance | None) -> dict[str, object]:
    if importance is None:
        return {}
    return {"calibration": {"text": importance.source, "tokens": importance.tokens}}


def _rounding(rounded: Rounded | None) -> dict[str, object]:
    return {} if rounded is None else {"rounding": dict(rounded.facts)}


def _context_length(checkpoint: Checkpoint, shape: ModelShape, recipe: Recipe) -> int:
    """Return the artifact's context: the recipe's, else all that the engine computes exactly."""
    usable = shape.context_length if recipe.format == "onnx" else shape.usable_context
    if recipe.context_length is None:
        return usable
    if recipe.context_length > usable:
        raise InputError(
            f"recipe {recipe.name} asks for a context of {recipe.context_length} tokens, "
            f"{checkpoint.path} has {usable}"
        )
    return recipe.context_length


def copy_licence(source: Path, folder: Path) -> None:
    """Copy the files that state a licence from the folder `source`."""
    for pattern in LICENCE_FILES:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _in_background(function: Callable[[], str]) -> Future[str]:
    """Run `function` in a daemon thread: an interrupted conversion does not wait for it."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
