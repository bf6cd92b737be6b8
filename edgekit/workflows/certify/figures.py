"""From comparisons position by position to the figures of a certificate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converters.divergence import Comparison
from converters.reference import Reference, Window
from edgekit.certificate import Certificate
from edgekit.workflows.certify.intervals import interval
from edgekit.workflows.certify.passages import LONG, text_digest


def certificate(
    checkpoint_digest: str,
    reference: Reference,
    comparisons: Sequence[Comparison],
    *,
    token_ids_equal: bool,
) -> Certificate | None:
    """Return the figures over all kinds of text and of each kind, None if they are not numbers."""
    divergences = [c.divergence for c in comparisons]
    divergence = np.concatenate(divergences)
    if not np.isfinite(divergence).all():
        return None
    low, high = interval(divergences)
    return Certificate(
        checkpoint_digest=checkpoint_digest,
        text_sha256=text_digest(reference.passages),
        positions=len(divergence),
        token_ids_equal=token_ids_equal,
        kld_mean=float(divergence.mean()),
        kld_standard_error=float(divergence.std() / np.sqrt(len(divergence))),
        kld_p99=float(np.quantile(divergence, 0.99)),
        top1_agreement=float(np.concatenate([c.same_top1 for c in comparisons]).mean()),
        perplexity=_perplexity(np.concatenate([c.target_log for c in comparisons])),
        perplexity_source=_perplexity(reference.rows.target_log),
        noise_floor=reference.noise_floor,
        by_kind=by_kind(reference.windows, comparisons),
        kld_low=low,
        kld_high=high,
    )


def by_kind(
    windows: Sequence[Window], comparisons: Sequence[Comparison]
) -> dict[str, dict[str, float]]:
    """Return the figures of each kind of text, in the order in which the kinds come."""
    kinds: dict[str, list[Comparison]] = {}
    for window, comparison in zip(windows, comparisons, strict=True):
        kinds.setdefault(window.kind, []).append(comparison)
    return {kind: kind_figures(parts) for kind, parts in kinds.items()}


def kind_figures(parts: Sequence[Comparison]) -> dict[str, float]:
    """Return the figures of one kind of text, from the comparison of each of its windows."""
    divergences = [part.divergence for part in parts]
    divergence = np.concatenate(divergences)
    low, high = interval(divergences)
    return {
        "positions": float(len(divergence)),
        "kld_mean": float(divergence.mean()),
        "kld_low": low,
        "kld_high": high,
        "kld_p99": float(np.quantile(divergence, 0.99)),
        "top1_agreement": float(np.concatenate([part.same_top1 for part in parts]).mean()),
        "perplexity": _perplexity(np.concatenate([part.target_log for part in parts])),
    }


def long_figures(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Return the figures of the long text: those of its second half, far from its beginning."""
    half = len(comparison.divergence) // 2
    later = Comparison(
        comparison.divergence[half:], comparison.same_top1[half:], comparison.target_log[half:]
    )
    return {LONG: kind_figures([later])}


def _perplexity(log_probabilities: NDArray[np.float32]) -> float:
    mean = -log_probabilities.astype(np.float64).mean()
    return float(np.exp(min(mean, 700.0)))  # what is beyond is no float64
