"""The verdicts on the last two stages: the weights that were stored, and the engine that runs them.

Torch computes with the stored weights on both sides of the line between the two: against the
checkpoint it shows what quantising cost, against the engine what the engine's arithmetic adds.
"""

from __future__ import annotations

import numpy as np

from converters.divergence import Comparison, compare
from converters.reference import targets
from edgekit.certificate import StageReport
from edgekit.workflows.certify import engine
from edgekit.workflows.certify.stored import Floats
from edgekit.workflows.certify.torch_pass import divergence, same_top1
from edgekit.workflows.certify.weights import TensorReport

# bits of most weights -> the largest divergence that rounding may make on the sample, in nats
ROUNDING = {32: 1e-4, 16: 0.01, 8: 0.15, 6: 0.5, 5: 1.0, 4: 2.5, 3: 6.0, 2: 12.0}
# and between torch and an engine on the same weights. Engines round activations to 8 bits where
# the weights are quantised, and to 16 where they have 16.
ARITHMETIC = {32: 0.002, 16: 0.02, 8: 0.05}


def quantised_report(
    tensors: list[TensorReport], asked: engine.Asked | None, logits: list[Floats], *, read: bool
) -> StageReport:
    """Judge the stored weights one by one, and the answers that torch gives with them.

    `logits` are those answers on the sampled windows, none where they could not be computed.
    """
    if not read or not tensors:
        return StageReport("quantised", None, "not looked at: the weights could not be read")
    figures = _errors(tensors)
    wrong = [f"{report.name} {report.wrong}" for report in tensors if report.wrong]
    if asked is not None and logits:
        parts = _against_reference(asked, logits)
        mean = float(np.concatenate([part.divergence for part in parts]).mean())
        limit = ROUNDING[min(ROUNDING, key=lambda bits: abs(bits - mean_bits(tensors)))]
        if np.isfinite(mean):
            figures["kld_mean"] = mean
            figures["top1_agreement"] = float(np.concatenate([p.same_top1 for p in parts]).mean())
        if not mean <= limit and not wrong:
            wrong.append(
                f"the weights as stored give answers {mean:.3g} nats from the checkpoint's"
            )
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return StageReport("quantised", False, wrong[0] + more, figures)
    return StageReport("quantised", True, _in_words(tensors), figures)


def _errors(tensors: list[TensorReport]) -> dict[str, float]:
    errors = [t.likeness.relative_error for t in tensors if np.isfinite(t.likeness.relative_error)]
    figures = {"tensors": float(len(tensors)), "mean_bits": mean_bits(tensors)}
    if errors:
        figures["relative_error_median"] = float(np.median(errors))
        figures["relative_error_worst"] = max(errors)
    return figures


def _in_words(tensors: list[TensorReport]) -> str:
    worst = max(tensors, key=lambda t: t.likeness.relative_error)
    return (
        f"{len(tensors)} tensors are the checkpoint's; the worst, {worst.name}, "
        f"is off by {worst.likeness.relative_error:.1%} ({worst.type})"
    )


def mean_bits(tensors: list[TensorReport]) -> float:
    """Return the mean bits of a weight, scales not counted."""
    weights = sum(t.weights for t in tensors)
    return sum(t.bits * t.weights for t in tensors) / max(1, weights)


def _against_reference(asked: engine.Asked, logits: list[Floats]) -> list[Comparison]:
    """Compare with the reference's rows of the sampled windows' beginnings."""
    firsts, first = [], 0
    for window in asked.reference.windows:
        firsts.append(first)
        first += len(window.token_ids) - 1
    parts = []
    for (index, count), rows in zip(asked.samples.items(), logits, strict=True):
        reference = asked.reference.rows.part(firsts[index], firsts[index] + count - 1)
        wanted = targets(asked.reference.windows[index])[: count - 1]
        parts.append(compare(reference, rows[:-1], wanted))
    return parts


def loaded_report(
    tensors: list[TensorReport],
    asked: engine.Asked | None,
    heard: engine.Heard | str,
    logits: list[Floats],
) -> StageReport:
    """Judge the engine: its answers against torch's on the same weights, token ids, prompts.

    `heard` is in words where the engine said nothing.
    """
    if asked is None:
        return StageReport("loaded", None, "not looked at: there is nothing to compare with")
    if isinstance(heard, str):
        return StageReport("loaded", False, heard)
    wrong = [words for words in (heard.other_ids, heard.other_prompts) if words]
    if not all(np.isfinite(c.divergence).all() for c in heard.measured.comparisons):
        return StageReport("loaded", False, "; ".join([*wrong, "its logits are not numbers"]))
    figures: dict[str, float] = {}
    if logits:
        said = [heard.measured.samples[index] for index in asked.samples]
        pairs = list(zip(logits, said, strict=True))
        mean = float(np.concatenate([divergence(a, b) for a, b in pairs]).mean())
        limit = ARITHMETIC[min(ARITHMETIC, key=lambda bits: abs(bits - mean_bits(tensors)))]
        if np.isfinite(mean):
            figures["kld_mean"] = mean
            figures["top1_agreement"] = float(
                np.concatenate([same_top1(a, b) for a, b in pairs]).mean()
            )
        if not mean <= limit:
            wrong.append(f"the engine is {mean:.3g} nats from torch on the same weights")
    if wrong:
        return StageReport("loaded", False, "; ".join(wrong), figures)
    what = "token ids and prompts are the same"
    if logits:
        what += ", the engine computes what torch does with these weights"
    return StageReport("loaded", True, what, figures)
