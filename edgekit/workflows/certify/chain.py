"""The checkpoints that an artifact descends from: source, pruned, healed.

Each is judged by itself (see `source`) and measured in torch against the first one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.divergence import log_normaliser
from converters.lineage import Stage, read_stage
from converters.special_tokens import token_ids
from edgekit.certificate import StageReport
from edgekit.errors import EdgekitError
from edgekit.progress import Advance, Progress
from edgekit.workflows.certify import source
from edgekit.workflows.certify.torch_pass import Logits, TorchModel, divergence, same_top1

MAX_GENERATIONS = 16
UNLIKE = 4.0  # nats: a model that knows nothing of the source's answers
NO_WORSE = 1.25  # healing must not take a model further away; a short sample wavers
Windows = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Link:
    """One checkpoint of the chain; `checkpoint` is None where it is no longer there: `missing`."""

    stage: Literal["source", "pruned", "healed"]
    checkpoint: Checkpoint | None
    missing: str = ""


def ancestry(checkpoint: Checkpoint) -> list[Link]:
    """Return the chain, the first ancestor first and `checkpoint` itself last.

    Raises InputError for a damaged record of a stage.
    """
    links: list[Link] = []
    current = checkpoint
    for _ in range(MAX_GENERATIONS):
        stage = read_stage(current)
        # A trained checkpoint answers unlike its parent on purpose: it is a source of its own.
        if stage is None or stage.kind == "trained":
            return [Link("source", current), *reversed(links)]
        links.append(Link(stage.kind, current))
        parent = _parent(stage)
        if isinstance(parent, str):
            return [Link("source", None, parent), *reversed(links)]
        current = parent
    return [Link("source", None, f"more than {MAX_GENERATIONS} steps back"), *reversed(links)]


def _parent(stage: Stage) -> Checkpoint | str:
    """Return the parent, or in words why it cannot be looked at."""
    path = Path(stage.parent)
    if not (path / "config.json").is_file():
        return f"the checkpoint that it was made from is no longer at {path}"
    try:
        parent = Checkpoint.open(path)
        if parent.digest() != stage.parent_digest:
            return f"{path} is no longer the checkpoint that it was made from"
    except EdgekitError as error:
        return f"the checkpoint that it was made from cannot be read: {error.message}"
    return parent


def judge(chain: list[Link], windows: Windows, progress: Progress) -> list[StageReport]:
    """Return a report for each link; the divergences are measured on `windows` of token ids.

    `windows` are of the last checkpoint's vocabulary.
    """
    reports = [_sound(link, progress) for link in chain]
    first = chain[0].checkpoint
    if len(chain) == 1 or first is None or not all(report.ok for report in reports):
        return reports
    with progress.task("running its ancestors", len(chain), unit="checkpoints") as advance:
        try:
            return _measured(chain, reports, windows, advance)
        except EdgekitError as error:
            return [*reports[:-1], StageReport(chain[-1].stage, False, error.message)]


def _sound(link: Link, progress: Progress) -> StageReport:
    if link.checkpoint is None:
        return StageReport(link.stage, None, link.missing)
    wrong = source.complaints(link.checkpoint, progress)
    if wrong:
        return StageReport(link.stage, False, "; ".join(wrong))
    return StageReport(link.stage, True, "tensors, layers, tokenizer and special tokens agree")


def _measured(
    chain: list[Link], reports: list[StageReport], windows: Windows, advance: Advance
) -> list[StageReport]:
    """Run every checkpoint of the chain over the windows, each on its own ids of our tokens."""
    names = [token_ids(link.checkpoint) for link in chain if link.checkpoint is not None]
    texts = sorted(names[-1], key=names[-1].__getitem__)
    rank = {names[-1][text]: place for place, text in enumerate(texts)}
    ranked = [tuple(rank[token] for token in ids) for ids in windows]
    results = [reports[0]]
    reference: list[Logits] = []
    previous: float | None = None
    for link, ids in zip(chain, names, strict=True):
        assert link.checkpoint is not None  # noqa: S101 - judge has seen to it
        if not ids.keys() >= set(texts):
            return [*results, *_not_comparable(reports[len(results) :])]
        found = _run(link.checkpoint, ranked, np.array([ids[text] for text in texts]))
        advance(1)
        if not reference:
            reference = found
            continue
        report = _compared(link.stage, reference, found, ranked, previous)
        previous = report.figures["kld_mean"]
        results.append(report)
    return results


def _not_comparable(reports: list[StageReport]) -> list[StageReport]:
    words = "not measured: it has tokens that an ancestor lacks"
    return [replace(report, what=f"{report.what}; {words}") for report in reports]


def _run(checkpoint: Checkpoint, windows: Windows, columns: NDArray[np.int64]) -> list[Logits]:
    """Return the logits of our tokens after each token of each window.

    `columns` are the checkpoint's ids of our tokens, whose places `windows` hold.
    """
    model = TorchModel(checkpoint)
    return [model.logits([int(columns[place]) for place in ids])[:, columns] for ids in windows]


def _compared(
    stage: str, reference: list[Logits], found: list[Logits], windows: Windows, before: float | None
) -> StageReport:
    kld = np.concatenate([divergence(a, b) for a, b in zip(reference, found, strict=True)])
    top1 = np.concatenate([same_top1(a, b) for a, b in zip(reference, found, strict=True)])
    mean = float(kld.mean())
    if not np.isfinite(mean):
        return StageReport(stage, False, "its answers are not numbers", {"kld_mean": 1e9})
    figures = {
        "kld_mean": mean,
        "top1_agreement": float(top1.mean()),
        "perplexity": perplexity(found, windows),
        "perplexity_source": perplexity(reference, windows),
    }
    words = f"{mean:.3f} nats from the source"
    if mean > UNLIKE:
        return StageReport(stage, False, f"its answers are unlike the source's: {words}", figures)
    if stage == "healed" and before is not None and mean > NO_WORSE * before:
        what = f"healing took it further away: {words}, {before:.3f} before"
        return StageReport(stage, False, what, figures)
    return StageReport(stage, True, f"sound; {words}", figures)


def perplexity(logits: list[Logits], windows: Windows) -> float:
    """Return exp of the mean loss, in nats, of each window's tokens after its first."""
    losses = []
    for rows, ids in zip(logits, windows, strict=True):
        log = rows[:-1] - log_normaliser(rows[:-1])
        losses.append(-log[np.arange(len(ids) - 1), list(ids[1:])])
    return float(np.exp(min(700.0, np.concatenate(losses).mean())))
