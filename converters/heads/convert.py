"""The pipeline for checkpoints with heads: one becomes a finished ONNX artifact, or nothing at all.

Beside the graphs lies tokenizer.json; labels are in the manifest. A device needs ONNX Runtime,
tokenizers and numpy.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.convert import copy_licence
from converters.heads.export import (
    DECODER,
    ENCODER,
    MODEL,
    SCHEMES,
    export_graphs,
    initialiser_bytes,
)
from converters.heads.model import (
    USUAL_CONTEXT,
    labels_of,
    longest_text,
    require_family,
    required_count,
    text_tokenizer,
)
from converters.recipe import Recipe
from edgekit.artifact import Artifact, Manifest, Source, finish
from edgekit.errors import InputError
from edgekit.files import require_space, staged_folder
from edgekit.progress import Progress
from edgekit.task import IN_WORDS, Task, TaskKind

TOOLS = ("edgekit", "onnx", "onnxruntime", "optimum-onnx", "torch", "transformers")
BYTES_PER_WEIGHT = 16  # of disk: traced, quantised and merged graphs stand beside each other


def convert_headed(
    checkpoint: Checkpoint,
    kind: TaskKind,
    recipe: Recipe,
    out: Path,
    *,
    progress: Progress,
    replace: bool = False,
) -> Artifact:
    """Convert `checkpoint` into the artifact folder `out`; the rest as `converters.convert`."""
    _check_recipe(checkpoint, kind, recipe)
    require_family(checkpoint, kind)
    text_tokenizer(checkpoint)
    task, context = _task(checkpoint, kind), _context(checkpoint, recipe)
    require_space(out.absolute().parent, BYTES_PER_WEIGHT * checkpoint.parameters)
    with staged_folder(out, replace=replace) as folder:
        with tempfile.TemporaryDirectory(prefix=".work.", dir=folder) as work:
            export_graphs(checkpoint, kind, recipe.scheme, folder, Path(work), progress)
        shutil.copyfile(checkpoint.path / "tokenizer.json", folder / "tokenizer.json")
        copy_licence(checkpoint.path, folder)
        source = Source(
            checkpoint=checkpoint.path.resolve().name,
            checkpoint_digest=checkpoint.digest(),
            licence=checkpoint.licence,
            recipe=recipe.to_dict(),
            tools={tool: version(tool) for tool in TOOLS},
        )
        finish(folder, _manifest(checkpoint, task, context, folder, source))
    return Artifact.open(out)


def _check_recipe(checkpoint: Checkpoint, kind: TaskKind, recipe: Recipe) -> None:
    if recipe.format != "onnx" or recipe.scheme not in SCHEMES or recipe.per_tensor:
        raise InputError(
            f"{checkpoint.path} {IN_WORDS[kind]}: such a model becomes ONNX in "
            f"{' or '.join(SCHEMES)}, not by the recipe {recipe.name}",
            hint="--format onnx --scheme int8",
        )


def _task(checkpoint: Checkpoint, kind: TaskKind) -> Task:
    if kind != "pairs":
        return Task(kind, labels_of(checkpoint))
    start = checkpoint.config.get("decoder_start_token_id")
    if type(start) is not int or not 0 <= start < required_count(checkpoint, "vocab_size"):
        raise InputError(f"{checkpoint.path / 'config.json'} has no decoder_start_token_id")
    return Task(kind, [], DECODER, start)


def _context(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Return the most tokens of a text: the recipe's, else what the model was made for."""
    longest, wanted = longest_text(checkpoint), recipe.context_length
    if wanted is not None and longest is not None and wanted > longest:
        raise InputError(
            f"recipe {recipe.name} asks for a context of {wanted} tokens, "
            f"{checkpoint.path} has {longest}"
        )
    return wanted or longest or USUAL_CONTEXT


def _manifest(
    checkpoint: Checkpoint, task: Task, context: int, folder: Path, source: Source
) -> Manifest:
    end = checkpoint.config.get("eos_token_id")
    if task.kind == "pairs" and type(end) is not int:
        raise InputError(f"{checkpoint.path / 'config.json'} has no eos_token_id")
    return Manifest(
        name=f"{source.checkpoint}-{source.recipe['name']}",
        format="onnx",
        scheme=str(source.recipe["scheme"]),
        entry=ENCODER if task.kind == "pairs" else MODEL,
        architecture=checkpoint.architecture,
        parameters=checkpoint.parameters,
        vocabulary_size=required_count(checkpoint, "vocab_size"),
        context_length=context,
        kv_bytes_per_token=0,
        bits_per_weight=8 * initialiser_bytes(folder) / checkpoint.parameters,
        bos_token_id=None,
        add_bos_token=False,
        stop_token_ids=[end] if task.kind == "pairs" and type(end) is int else [],
        chat_template=None,
        files=[],
        source=source,
        task=task,
    )
