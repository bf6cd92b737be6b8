"""From a checkpoint and a recipe to rounded matrices: calibrate, compensate, distil, keep.

Nothing here is format by format but the start: GGUF's comes from ggml, ONNX's from our own
quantiser. Everything after it is one for both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from converters import ggml
from converters.architectures import ModelShape, TensorSpec, describe
from converters.checkpoint import Checkpoint
from converters.importance import Importance, is_weighed
from converters.plan import Plan
from converters.reference import Window, load_model
from converters.rounding import onnx_blocks
from converters.rounding.distil import Training, distil
from converters.rounding.grids import GRIDS, Blocks, take_apart
from converters.rounding.layers import round_layers
from converters.rounding.rounded import Rounded, load_rounded
from edgekit.errors import InputError
from edgekit.progress import Progress

CACHE_VERSION = 1
DEFAULT_STEPS = 120
MAX_WORKERS = 8  # each holds a matrix and its codes
FACT_STEPS = 10


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be rounded, and how; with 0 `steps` of training the scales are not distilled.

    `windows` decide the codes, `lessons` the scales.
    """

    checkpoint: Checkpoint
    plan: Plan
    importance: Importance
    windows: Sequence[Window]
    steps: int = 0
    lessons: Sequence[Window] = ()


def round_checkpoint(work: Work, cache_folder: Path, progress: Progress) -> Rounded:
    """Return the matrices of the plan, rounded together; from `cache_folder` where known.

    Compensated codes are kept there too, and how far a distillation has come.
    Needs torch and transformers otherwise. Raises InputError for a checkpoint that cannot be
    loaded or that holds weights no type can hold.
    """
    key = _key(work)
    compensated = _kept(cache_folder / f"{key}.npz", lambda: _compensate(work, progress))
    if not work.steps:
        return compensated
    training = Training(steps=work.steps)
    lessons = [lesson.token_ids for lesson in work.lessons]
    taught = _digest([CACHE_VERSION, asdict(training), lessons])[:32]
    file = cache_folder / f"{key}-{taught}.npz"
    state = file.with_suffix(".state")
    distilled = _kept(file, lambda: _distil(work, training, compensated, state, progress))
    state.unlink(missing_ok=True)
    return distilled


def _kept(file: Path, make: Callable[[], Rounded]) -> Rounded:
    known = load_rounded(file)
    if known is None:
        known = make()
        known.save(file)
    return known


def _compensate(work: Work, progress: Progress) -> Rounded:
    shape = describe(work.checkpoint)
    starts = _starts(work, shape, progress)
    model = load_model(work.checkpoint).requires_grad_(False)
    layers = round_layers(model, shape, starts, work.windows, progress)
    tokens = sum(len(window.token_ids) for window in work.windows)
    facts = {"method": "compensated", "text": work.importance.source, "tokens": tokens}
    return Rounded(starts | layers, facts=facts)


def _distil(
    work: Work, training: Training, rounded: Rounded, state: Path, progress: Progress
) -> Rounded:
    model = load_model(work.checkpoint)
    result = distil(model, rounded.blocks, work.lessons, training, progress, state)
    facts = {
        **rounded.facts,
        "method": "distilled",
        "steps": training.steps,
        "tokens_per_step": training.tokens_per_step,
        "lessons": sum(len(lesson.token_ids) for lesson in work.lessons),
        "kld_first_steps": float(np.mean(result.losses[:FACT_STEPS])),
        "kld_last_steps": float(np.mean(result.losses[-FACT_STEPS:])),
    }
    return Rounded(dict(rounded.blocks) | result.blocks, result.gains, facts)


def _starts(work: Work, shape: ModelShape, progress: Progress) -> dict[str, Blocks]:
    """Return every matrix as the exporter would round it by itself, weighed by importance."""
    types = {tensor.source: tensor.type for tensor in work.plan.tensors}
    specs = [spec for spec in shape.tensors() if _is_rounded(spec, types.get(spec.name, ""))]
    with (
        ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool,
        progress.task("rounding", len(specs), unit="matrices") as advance,
    ):
        starts = {}
        jobs = [pool.submit(_start, work, shape, spec, types[spec.name]) for spec in specs]
        for spec, job in zip(specs, jobs, strict=True):
            starts[spec.name] = job.result()
            advance(1)
    return starts


def _is_rounded(spec: TensorSpec, type_name: str) -> bool:
    return len(spec.shape) == 2 and (type_name in GRIDS or type_name == "int4")


def _start(work: Work, shape: ModelShape, spec: TensorSpec, type_name: str) -> Blocks:
    weights = work.checkpoint.read(spec.name)
    counts = work.importance.of(spec) if is_weighed(spec, shape) else None
    try:
        if work.plan.format == "onnx":
            return onnx_blocks.start_blocks(weights, type_name, counts)
        packed = ggml.load().quantise(weights, type_name, counts)
    except InputError as error:
        message = f"{work.checkpoint.path}: tensor {spec.name}: {error.message}"
        raise InputError(message, error.hint) from error
    return take_apart(type_name, packed, weights.shape[1])


def _key(work: Work) -> str:
    """Return a name for the compensated codes: all that decides them."""
    tensors = [(tensor.source, tensor.type) for tensor in work.plan.tensors]
    windows = [window.token_ids for window in work.windows]
    digest = work.checkpoint.digest()
    return _digest([CACHE_VERSION, work.plan.format, tensors, windows, digest])[:32]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
