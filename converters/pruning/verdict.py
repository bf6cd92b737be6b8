"""The verdict: whether the same bytes are better saved by a lower quantisation than by pruning.

Both are measured: the pruned model in the default scheme, and the whole model in the largest
scheme that needs no more bytes, each quantised, dequantised and read by torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.ggml import UnusableLibraryError
from converters.ggml import load as load_ggml
from converters.gguf_plan import plan_tensors
from converters.plan import PlannedTensor
from converters.pruning.draft import Draft, Rows, load
from converters.pruning.measure import Figures, Yardstick, compare_to
from converters.pruning.request import Request
from converters.recipe import Recipe
from converters.schemes import SCHEMES
from edgekit.progress import Progress

BASE_SCHEMES = ("q4_k_m", "q8_0", "f16")  # the first that leaves a lower one to compare with
FLOATS = ("f32", "f16", "bf16")


@dataclass(frozen=True, slots=True)
class Side:
    """A model in a scheme: the bytes of its tensors, its divergence (nats) and perplexity."""

    scheme: str
    bytes: int
    kld_mean: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, in a word and a sentence: "prune", "do not prune" or "unknown".

    `pruned` and `unpruned` are what was compared, where something was.
    """

    advice: str
    why: str
    pruned: Side | None = None
    unpruned: Side | None = None


def judge(
    original: Draft,
    draft: Draft,
    plain: Yardstick,
    measured: Yardstick,
    figures: Figures,
    request: Request,
    progress: Progress,
) -> Verdict:
    """Return the verdict on `draft`, made from `original`.

    `plain` is the original measured in its own tokens, `measured` in those that are kept: the
    same where the vocabulary is whole. `figures` are those of `draft`.
    """
    if draft.parameters == original.parameters:
        return Verdict(
            "do not prune",
            f"zeros alone make neither engine faster nor the file smaller, and these cost a "
            f"divergence of {figures.divergence:.3f}",
        )
    pair = _schemes(original, draft)
    if pair is None:
        return Verdict("unknown", "no lower quantisation saves as many bytes: see edgekit check")
    try:
        ours = _measure(draft, pair[0], measured, progress)
        theirs = _measure(original, pair[1], plain, progress)
    except UnusableLibraryError as error:
        return Verdict("unknown", f"nothing to quantise with: {error}")
    return _compare(ours, theirs, by_perplexity=plain is not measured)


def _compare(ours: Side, theirs: Side, *, by_perplexity: bool) -> Verdict:
    """Compare by divergence; by perplexity where the two do not have the same tokens."""
    if by_perplexity:
        what, mine, other = "perplexity", ours.perplexity, theirs.perplexity
    else:
        what, mine, other = "divergence", ours.kld_mean, theirs.kld_mean
    worse = mine > other
    why = (
        f"the whole model as {theirs.scheme} ({theirs.bytes / 1e6:.1f} MB, {what} {other:.3f}) "
        f"{'loses less than' if worse else 'is no better than'} "
        f"the pruned one as {ours.scheme} ({ours.bytes / 1e6:.1f} MB, {mine:.3f})"
    )
    if worse:
        why += "; edgekit heal may win some of it back"
    return Verdict("do not prune" if worse else "prune", why, ours, theirs)


def _schemes(original: Draft, draft: Draft) -> tuple[str, str] | None:
    """Return the scheme for the pruned model, and the largest that fits the whole one in its bytes.

    None where there is no such pair.
    """
    sizes = {name: _bytes(original, name) for name in SCHEMES["gguf"]}
    for base in BASE_SCHEMES:
        limit = _bytes(draft, base)
        fitting = {name: size for name, size in sizes.items() if size <= limit}
        if fitting:
            return base, max(fitting, key=lambda name: fitting[name])
    return None


def _plan(draft: Draft, scheme: str) -> tuple[PlannedTensor, ...]:
    return plan_tensors(draft.shape, Recipe.of("gguf", scheme))[0]


def _bytes(draft: Draft, scheme: str) -> int:
    return sum(tensor.bytes for tensor in _plan(draft, scheme))


def _measure(draft: Draft, scheme: str, against: Yardstick, progress: Progress) -> Side:
    """Quantise `draft` by `scheme`, dequantise, and compare with the original."""
    model = _quantised(draft, scheme, progress)
    figures = compare_to(against, model, progress, f"reading it as {scheme}")
    return Side(scheme, _bytes(draft, scheme), figures.divergence, figures.perplexity)


def _quantised(draft: Draft, scheme: str, progress: Progress) -> Any:
    import gguf

    library = load_ggml()
    types = {tensor.source: tensor.type for tensor in _plan(draft, scheme)}
    with progress.task(f"quantising as {scheme}", len(types), unit="tensors") as advance:

        def rounded(name: str, values: Rows) -> Rows:
            advance(1)
            used = types.get(name, "f32")
            if used in FLOATS:
                return values.astype(np.float16).astype(np.float32) if used == "f16" else values
            kind = gguf.GGMLQuantizationType[used.upper()]
            return np.asarray(gguf.dequantize(library.quantise(values, used), kind), np.float32)

        return load(draft, rounded)
