"""Bridges: where layers were removed, the layers around the gap take over what those had added.

No gradient is needed. What leaves a layer is linear in the weights of the feed-forward's way down,
so the change that brings it closest to what leaves the original's layer, over a text, is a least
squares problem. Shopkhoev et al. 2025, "ReplaceMe", arXiv 2505.02819, solve it for a matrix that
is multiplied into those weights; here it is the weights themselves that are solved for, which have
more to give, held back by a ridge that is chosen on text that takes no part.

On SmolLM2-135M without 3 of 30 layers a few minutes of this are worth sixty steps of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converters.checkpoint import Checkpoint
from converters.lineage import Stage
from converters.pruning.running import Ids, listening, step, trace
from edgekit.progress import Progress
from edgekit.train.teacher import stages_since

if TYPE_CHECKING:
    import torch

REACH = 2  # layers behind the gap that still gain from it
RIDGES = (0.1, 0.3, 1.0, 3.0)  # in units of the mean square of the inputs
LEAST_GAIN = 0.03  # of the error on other text: less may be chance


@dataclass(frozen=True, slots=True)
class Text:
    """Windows of token ids: the weights are solved for on `solved`, the ridge is chosen on
    `chosen`. `solved` should have several times as many tokens as a feed-forward has units."""

    solved: Sequence[Ids]
    chosen: Sequence[Ids]

    @property
    def tokens(self) -> int:
        """Return how many tokens both have."""
        return sum(map(len, (*self.solved, *self.chosen)))


@dataclass(frozen=True, slots=True)
class Bridge:
    """What was changed: the layer of the student, and the mean relative squared error of what
    leaves it, on text that took no part, before and after."""

    layer: int
    before: float
    after: float

    @property
    def weight(self) -> str:
        """Return the name of the changed weight in the student."""
        return f"model.layers.{self.layer}.mlp.down_proj.weight"


def kept_layers(student: Checkpoint, original: Checkpoint) -> tuple[int, ...] | None:
    """Return, for each layer of `student`, its place in `original`; None if no record says."""
    count, size = (c.config.get("num_hidden_layers") for c in (original, student))
    stages = stages_since(student, original)
    if stages is None or type(count) is not int:
        return None
    kept = list(range(count))
    for stage in stages:
        gone = _removed(stage)
        if not gone <= set(range(len(kept))):
            return None
        kept = [layer for place, layer in enumerate(kept) if place not in gone]
    return tuple(kept) if len(kept) == size else None


def bridge(
    student: Any,
    teacher: Any,
    kept: Sequence[int],
    text: Text,
    teacher_ids: Sequence[int] | None,
    progress: Progress,
) -> list[Bridge]:
    """Bridge the gaps of `student`, in place; return what was changed.

    `kept` is as `kept_layers` returns it, `teacher_ids` the teacher's id of each of the student's
    tokens, None if they are the same. Both models are transformers decoders in float32 of the same
    hidden size.
    """
    import torch

    wanted = _wanted(kept, teacher.config.num_hidden_layers)
    if not wanted:
        return []
    windows = [*text.solved, *text.chosen]
    first, last = min(wanted), max(wanted)
    work = text.tokens * (2 + last - first)
    with torch.inference_mode(), progress.task("bridging the gaps", work, "tokens") as advance:
        targets: dict[int, list[torch.Tensor]] = {layer: [] for layer in wanted}
        states, arguments = [], []
        for ids in windows:
            theirs = ids if teacher_ids is None else [teacher_ids[i] for i in ids]
            leaving = trace(teacher, theirs).states[1:]
            for layer, original_layer in wanted.items():
                targets[layer].append(leaving[original_layer])
            found = trace(student, ids)
            states.append(found.states[first])
            arguments.append(found.arguments[first])
            advance(len(ids))
        done = []
        for place in range(first, last + 1):
            layer = student.model.layers[place]
            if place in wanted:
                problem = _Problem(layer, states, arguments, targets.pop(place))
                change, before, after = problem.solve(len(text.solved))
                if after < (1 - LEAST_GAIN) * before:
                    layer.mlp.down_proj.weight.add_(change)
                    done.append(Bridge(place, before, after))
            for i, state in enumerate(states):
                states[i] = step(layer, state, arguments[i])
            advance(text.tokens)
    return done


class _Problem:
    """What enters one layer, what should leave it, and the weights that bring it there."""

    def __init__(
        self, layer: Any, states: list[torch.Tensor], arguments: list[dict[str, Any]],
        targets: list[torch.Tensor],
    ) -> None:  # fmt: skip
        self._layer, self._states = layer, states
        self._arguments, self._targets = arguments, targets

    def solve(self, count: int) -> tuple[torch.Tensor, float, float]:
        """Return the change of the way down, and the error without it and with it.

        The first `count` windows are solved for, the others choose the ridge.
        """
        import torch

        down = self._layer.mlp.down_proj.weight  # [hidden, units]
        # In float32 the small directions of the inputs would be noise.
        gram = down.new_zeros(down.shape[1], down.shape[1], dtype=torch.float64)
        right = down.new_zeros(down.shape[1], down.shape[0], dtype=torch.float64)
        for units, missing in self._rows(0, count):
            gram += units.T @ units
            right += units.T @ missing
        mean = gram.diagonal().mean()
        changes = [torch.zeros_like(right).float()]
        for ridge in RIDGES:
            held = gram + ridge * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            changes.append(torch.linalg.solve(held, right).float())
        errors, rows = [0.0] * len(changes), 0
        for units, missing in self._rows(count, len(self._states)):
            rows += len(units)
            for i, change in enumerate(changes):
                errors[i] += float((missing - units @ change).square().sum())
        best = min(range(len(errors)), key=errors.__getitem__)
        return changes[best].T, errors[0] / rows, errors[best] / rows

    def _rows(self, first: int, end: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield for each window the inputs of the way down, and what is missing behind the layer.

        Both are divided by the length of what should leave, as the norm before the next layer
        does: a few tokens are a thousand times longer than the others, and would be all that
        counts.
        """
        heard: list[torch.Tensor] = []
        with listening([self._layer.mlp.down_proj], lambda _place, units: heard.append(units)):
            for i in range(first, end):
                leaving = step(self._layer, self._states[i], self._arguments[i])[0]
                target = self._targets[i][0]
                length = target.norm(dim=-1, keepdim=True).clamp(min=1e-12)
                yield heard.pop() / length, (target - leaving) / length


def _wanted(kept: Sequence[int], count: int) -> dict[int, int]:
    """Return the layers to solve for, and behind which of the original's `count` each one ends."""
    ends = [after - 1 for after in (*kept[1:], count)]
    gaps = [place for place, end in enumerate(ends) if end != kept[place]]
    if kept and kept[0] > 0:
        gaps.insert(0, -1)
    near = {g + d for g in gaps for d in range(REACH + 1) if 0 <= g + d < len(kept)}
    return {place: ends[place] for place in sorted(near)}


def _removed(stage: Stage) -> set[int]:
    """Return the places of the layers that a stage removed."""
    steps = stage.how.get("steps", [])
    layers = [s for s in steps if isinstance(s, dict) and s.get("kind") == "layers"]
    return {place for s in layers for place in s.get("removed", []) if type(place) is int}
