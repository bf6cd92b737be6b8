"""The pipeline: a checkpoint and a request become a pruned checkpoint, with figures, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import write_checkpoint
from converters.lineage import Stage
from converters.pruning import attention, depth, feed_forward, sparsity
from converters.pruning.draft import Draft, load
from converters.pruning.measure import Figures, Yardstick, compare_to, restricted, yardstick
from converters.pruning.request import Request
from converters.pruning.running import Ids
from converters.pruning.verdict import Verdict, judge
from converters.pruning.vocabulary import Selection, keep_tokens, retell, select
from converters.reference import Window
from edgekit.errors import InputError
from edgekit.progress import Progress

CHOICE_TOKENS = 768  # for layers: each position costs a pass for every candidate
MIN_WINDOW = 8


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as token ids: those that choices are made on, and those that decide what they cost.

    `source` and `held_out_source` say for people what they are.
    """

    choice: tuple[Ids, ...]
    held_out: tuple[Ids, ...]
    source: str
    held_out_source: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """A finished pruning: `steps` says for each kind what was removed and how it was chosen.

    `weights_before`, `weights_after`: how many are stored. `lost_mass`: see `Yardstick`.
    """

    draft: Draft
    steps: list[dict[str, Any]]
    figures: Figures
    perplexity_before: float
    lost_mass: float
    weights_before: int
    weights_after: int
    verdict: Verdict
    texts: Texts

    def record(self) -> dict[str, Any]:
        """Return what happened as plain JSON, for the stage record and for programs."""
        return {
            "steps": self.steps,
            "weights_before": self.weights_before,
            "weights_after": self.weights_after,
            "kld_mean": self.figures.divergence,
            "top1_agreement": self.figures.top1_agreement,
            "perplexity_before": self.perplexity_before,
            "perplexity_after": self.figures.perplexity,
            "positions": self.figures.positions,
            "lost_mass": self.lost_mass,
            "text": self.texts.source,
            "held_out_text": self.texts.held_out_source,
            "verdict": asdict(self.verdict),
        }


def split(windows: Sequence[Window], source: str, held_out: Sequence[Window] | None) -> Texts:
    """Return `windows` as texts to choose on, and `held_out`, or every other of them, to measure.

    Every other within each kind, so that both halves have all kinds. Raises InputError if there
    is too little text.
    """
    usable = [w for w in windows if len(w.token_ids) >= MIN_WINDOW]
    if held_out is not None:
        rest = [w.token_ids for w in held_out if len(w.token_ids) >= MIN_WINDOW]
        texts = Texts(tuple(w.token_ids for w in usable), tuple(rest), source, "a text of its own")
    else:
        places: dict[str, int] = {}
        halves: tuple[list[Ids], list[Ids]] = ([], [])
        for window in usable:
            place = places[window.kind] = places.get(window.kind, -1) + 1
            halves[place % 2].append(window.token_ids)
        texts = Texts(tuple(halves[0]), tuple(halves[1]), source, f"the other half of {source}")
    if not texts.choice or not texts.held_out:
        raise InputError(
            f"{source}: there are {len(usable)} pieces of at least {MIN_WINDOW} tokens, "
            "one to choose on and one to measure are needed",
            hint="give a longer text",
        )
    return texts


def prune(checkpoint: Checkpoint, request: Request, texts: Texts, progress: Progress) -> Pruned:
    """Return `checkpoint` pruned by `request`, chosen and measured on `texts`; nothing is written.

    Raises UsageError for a request that the model cannot fulfil, InputError for a checkpoint or a
    vocabulary text that cannot be used.
    """
    start = Draft.of(checkpoint)
    request.check(start.shape)
    _check_ids(start, texts)
    selection = None if request.vocabulary is None else select(checkpoint, request.vocabulary)
    original = load(start)
    plain, measured = _yardsticks(original, texts.held_out, selection, progress)
    draft, steps = _layers(start, original, request, texts, progress)
    del original
    for narrow in (_units, _groups, _zeros):  # each chosen on what the one before has left
        draft, step = narrow(draft, request, texts, progress)
        steps += step
    if selection is not None:
        draft = keep_tokens(draft, selection)
        steps.append(selection.record())
    figures = compare_to(measured, load(draft), progress, "reading it with the pruned model")
    verdict = judge(start, draft, plain, measured, figures, request, progress)
    return Pruned(
        draft, steps, figures, plain.perplexity, measured.lost_mass,
        start.parameters, draft.parameters, verdict, texts,
    )  # fmt: skip


def write(pruned: Pruned, out: Path, progress: Progress, *, replace: bool = False) -> Checkpoint:
    """Write the pruned checkpoint into the folder `out`, with the record of the stage.

    Raises InputError if `out` exists and `replace` is false; GateError where the disk is too small.
    """
    draft = pruned.draft
    parent = draft.source
    stage = Stage("pruned", str(parent.path.resolve()), parent.digest(), pruned.record())
    return write_checkpoint(
        parent, out, draft.weights, config=draft.config, stage=stage, files=draft.files,
        progress=progress, replace=replace,
    )  # fmt: skip


def _check_ids(draft: Draft, texts: Texts) -> None:
    """Raise InputError for a token that the model has no row for."""
    largest = max(max(ids) for ids in (*texts.choice, *texts.held_out))
    if largest >= draft.shape.vocabulary_size:
        raise InputError(
            f"{draft.source.path}: the tokenizer has token {largest}, "
            f"the model {draft.shape.vocabulary_size} rows"
        )


def _yardsticks(
    model: Any, held_out: Sequence[Ids], selection: Selection | None, progress: Progress
) -> tuple[Yardstick, Yardstick]:
    """Return the original measured in its own tokens, and in those that are kept: of one text."""
    if selection is None:
        plain = yardstick(model, held_out, progress)
        return plain, plain
    pairs = [pair for ids in held_out if (pair := retell(selection, ids)) is not None]
    if not pairs:
        raise InputError("no held-out text can be read in the kept tokens", "give a longer text")
    plain = yardstick(model, [old for old, _ in pairs], progress)
    retold = [new for _, new in pairs]
    return plain, restricted(plain, model, retold, selection.kept_ids, progress)


def _layers(
    draft: Draft, model: Any, request: Request, texts: Texts, progress: Progress
) -> tuple[Draft, list[dict[str, Any]]]:
    """Remove the layers that `request` names or counts, chosen with the original `model`."""
    if request.drop:
        removed = {"kind": "layers", "method": "named", "removed": sorted(request.drop)}
        return depth.drop_layers(draft, request.drop), [removed]
    if request.layers is None:
        return draft, []
    count = depth.count_to_remove(request.layers, draft.shape.layers)
    choice = depth.choose(model, _shortened(texts.choice, CHOICE_TOKENS), count, progress)
    step = {
        "kind": "layers",
        "method": "leave-one-out divergence",
        "removed": sorted(choice.layers),
        "in_order": choice.layers,
        "divergence": choice.divergence,
        "divergence_without_one": choice.alone,
    }
    return depth.drop_layers(draft, choice.layers), [step]


def _units(
    draft: Draft, request: Request, texts: Texts, progress: Progress
) -> tuple[Draft, list[dict[str, Any]]]:
    """Keep as many feed-forward units as `request` says."""
    if request.feed_forward is None:
        return draft, []
    units = draft.shape.intermediate
    width, why = feed_forward.width_to_keep(request.feed_forward, units, exact=request.exact_width)
    kept = feed_forward.choose(load(draft), texts.choice, width, progress)
    step = {
        "kind": "feed-forward", "method": "squared activation times squared column norm",
        "kept": width, "of": units, "why": why,
    }  # fmt: skip
    return feed_forward.keep_units(draft, kept), [step]


def _groups(
    draft: Draft, request: Request, texts: Texts, progress: Progress
) -> tuple[Draft, list[dict[str, Any]]]:
    """Keep as many attention groups as `request` says."""
    if request.kv_groups is None:
        return draft, []
    shape = draft.shape
    kept = attention.choose(load(draft), shape, texts.choice, request.kv_groups, progress)
    step = {
        "kind": "attention groups", "method": "squared norm of what a group sends",
        "kept": request.kv_groups, "of": shape.kv_heads, "why": attention.restriction(shape),
        "kept_of_layer": [[int(group) for group in groups] for groups in kept],
    }  # fmt: skip
    return attention.keep_groups(draft, kept), [step]


def _zeros(
    draft: Draft, request: Request, texts: Texts, progress: Progress
) -> tuple[Draft, list[dict[str, Any]]]:
    """Set to zero what `request` says."""
    if request.sparsity is None:
        return draft, []
    shape, method = draft.shape, request.method
    pattern = sparsity.parse_pattern(request.sparsity, shape)
    masks = sparsity.choose(load(draft), shape, texts.choice, pattern, method, progress)
    step = {
        "kind": "single weights", "method": method, "pattern": str(pattern),
        "zeros": sparsity.zeros(masks),
    }  # fmt: skip
    return sparsity.zero(draft, masks), [step]


def _shortened(texts: Sequence[Ids], tokens: int) -> list[Ids]:
    """Return texts of at most about `tokens` tokens in all, from everywhere among `texts`."""
    wanted = max(1, min(len(texts), round(tokens / max(map(len, texts)))))
    return [texts[number * len(texts) // wanted] for number in range(wanted)]
