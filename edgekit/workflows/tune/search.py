"""The search: predict for all types, measure a few recipes, never return less than a preset.

Predictions choose what is worth measuring; measurements alone choose the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from converters.architectures import describe
from converters.budget.allocate import Choice, allocate, front
from converters.checkpoint import Checkpoint
from converters.plan import Plan
from converters.recipe import Recipe
from converters.schemes import SCHEMES
from devices.estimate import estimate
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile
from devices.speed import decode_s, matrix_s_per_weight
from edgekit.errors import GateError, InputError
from edgekit.units import format_bytes
from edgekit.workflows.plan_models import Plans, facts_of_plan
from edgekit.workflows.tune.laboratory import Laboratory
from edgekit.workflows.tune.wish import Budget, Point, Tuned

FLOATS = ("f32", "bf16", "f16")
FRONT_POINTS = 16
PRESETS_MEASURED = 3
PRESET_MARGIN = 1.3  # a prediction may be as much too high
SIZE_TRIES = 4
KLD_STEPS = 4  # measurements on the way to the smallest file that holds a divergence
CONTEXT_TOKENS, PROMPT_TOKENS = 4096, 512
ANSWER_POSITION = 544  # where a token's speed is judged, as edgekit plan does
NEAR = 0.97  # of a limit: near enough to stop at
SMALL_FILES_BYTES = 8192  # configurations and the licence, beside an ONNX model


def tune(checkpoint: Checkpoint, budget: Budget, laboratory: Laboratory) -> Tuned:
    """Return the recipe that loses least within `budget`, and what was measured on the way.

    With a limit on the divergence it is the smallest file that holds it. Raises GateError if
    nothing holds the budget, InputError for a bad checkpoint.
    """
    search = _Search(checkpoint, budget, laboratory)
    points = [search.measured(p) for p in search.presets_worth_measuring()]
    if budget.max_kld is None:
        points += search.largest()
    else:
        points += search.smallest(budget.max_kld, points)
    held = [p for p in points if search.holds(p)]
    if not held:
        raise _nothing_holds(points or search.presets, budget)
    chosen = min(held, key=_worth if budget.max_kld is None else _size)
    return Tuned(chosen, _why(chosen, held, budget), tuple(points), tuple(search.front()))


class _Search:
    """The table of choices of one checkpoint in one format, and what recipes come to."""

    def __init__(self, checkpoint: Checkpoint, budget: Budget, laboratory: Laboratory) -> None:
        self._checkpoint, self._budget, self._laboratory = checkpoint, budget, laboratory
        self._shape = describe(checkpoint)
        self._plans = Plans(checkpoint, self._shape, laboratory.importance)
        self._companions = _companion_bytes(checkpoint) if budget.format == "onnx" else 0
        seconds = {} if budget.profile is None else _seconds_per_weight(budget, budget.profile)
        self._table = laboratory.table(budget.format, seconds)
        self.presets = list(self._presets())
        if not self.presets:
            raise InputError(f"{checkpoint.path} fits no scheme of {budget.format}")
        first = self._choice(self.presets[0].recipe)
        self._other_bytes = self.presets[0].bytes - self._table.options.size(first)
        self._max_seconds = self._seconds_left(self.presets[0].recipe)

    def presets_worth_measuring(self) -> list[Point]:
        """Return the presets that may be the best within the budget, the most promising first."""
        within = sorted((p for p in self.presets if self._in_size(p)), key=lambda p: p.predicted)
        if self._budget.max_kld is not None:
            wanted = self._budget.max_kld * PRESET_MARGIN
            within = sorted((p for p in within if p.predicted <= wanted), key=_size)
        return within[:PRESETS_MEASURED]

    def largest(self) -> Iterator[Point]:
        """Yield the measured allocation that fills the budget, if there is one."""
        limit = self._size_left()
        for _ in range(SIZE_TRIES):
            choice = allocate(self._table.options, limit, self._max_seconds)
            if choice is None:
                return
            point = self._tuned(choice)
            if self._in_size(point):
                yield self.measured(point)
                return
            # An ONNX graph has more nodes for unlike types, and memory is not all in the file.
            limit = self._table.options.size(choice) - self._excess(point)

    def smallest(self, max_kld: float, known: Sequence[Point]) -> Iterator[Point]:
        """Yield measured allocations that close in on the smallest of a divergence.

        The ratio of measured to predicted divergence changes slowly, so it is carried on.
        """
        ratios = [p.measured / p.predicted for p in known if p.measured and p.predicted]
        ratio = ratios[0] if ratios else 1.0
        seen: set[int] = set()
        for _ in range(KLD_STEPS):
            choice = self._smallest_predicted(max_kld * NEAR / ratio)
            if choice is None:
                return
            point = self._tuned(choice)
            if point.bytes in seen:
                return
            seen.add(point.bytes)
            point = self.measured(point)
            yield point
            if point.measured is None or max_kld * NEAR**2 <= point.measured <= max_kld:
                return
            ratio = point.measured / max(point.predicted, 1e-12)

    def measured(self, point: Point) -> Point:
        """Return the point with its divergence measured, from the cache where it is known."""
        return replace(point, measured=self._laboratory.divergence(self._types(point.recipe)))

    def holds(self, point: Point) -> bool:
        """Return whether a point holds every limit of the budget."""
        budget = self._budget
        return (
            self._in_size(point)
            and (budget.max_kld is None or (point.measured or 0.0) <= budget.max_kld)
            and (point.tokens_per_s or 0.0) >= (budget.min_tokens_per_s or 0.0)
        )

    def front(self) -> list[Point]:
        """Return the predicted best of sizes from the smallest possible to the largest useful."""
        choices = front(self._table.options, FRONT_POINTS, self._max_seconds)
        return [self._tuned(choice) for choice in choices]

    def _presets(self) -> Iterator[Point]:
        for name in SCHEMES[self._budget.format]:
            if name in FLOATS:
                continue
            recipe = Recipe.of(self._budget.format, name)
            known = set(self._table.types)
            if known.issuperset(self._types(recipe).values()):
                yield self._point(recipe, self._choice(recipe), is_preset=True)

    def _tuned(self, choice: Choice) -> Point:
        size = self._other_bytes + self._table.options.size(choice)
        name = f"{self._budget.format}-tuned-{format_bytes(size).replace(' ', '')}"
        return self._point(self._table.recipe(name, choice), choice, is_preset=False)

    def _point(self, recipe: Recipe, choice: Choice, *, is_preset: bool) -> Point:
        planned = self._plan(recipe)
        speed = None
        if self._budget.profile is not None:
            speed = 1 / decode_s(self._facts(planned), self._budget.profile, ANSWER_POSITION)
        size = planned.file_bytes + self._companions
        predicted = self._table.options.loss(choice)
        return Point(recipe, size, predicted, None, speed, is_preset)

    def _in_size(self, point: Point) -> bool:
        budget = self._budget
        if budget.max_bytes is not None and point.bytes > budget.max_bytes:
            return False
        return budget.profile is None or self._fits(point.recipe, budget.profile)

    def _excess(self, point: Point) -> int:
        """Return by how many bytes a point is too large, at least one."""
        over = [1]
        if self._budget.max_bytes is not None:
            over.append(point.bytes - self._budget.max_bytes)
        if self._budget.profile is not None:
            needed = self._needed_bytes(point.recipe, self._budget.profile)
            over.append(needed - self._budget.profile.usable_memory_bytes)
        return max(over)

    def _fits(self, recipe: Recipe, profile: DeviceProfile) -> bool:
        return self._needed_bytes(recipe, profile) <= profile.usable_memory_bytes

    def _needed_bytes(self, recipe: Recipe, profile: DeviceProfile) -> int:
        facts = self._facts(self._plan(recipe))
        context = min(CONTEXT_TOKENS, facts.context_length)
        found = estimate(facts, profile, context_length=context, prompt_tokens=PROMPT_TOKENS)
        return found.needed_memory_bytes

    def _size_left(self) -> float:
        """Return how many bytes the matrices may have."""
        limits = [float("inf")]
        if self._budget.max_bytes is not None:
            limits.append(self._budget.max_bytes - self._other_bytes)
        if self._budget.profile is not None:
            smallest = min(self.presets, key=_size)
            needed = self._needed_bytes(smallest.recipe, self._budget.profile)
            room = self._budget.profile.usable_memory_bytes - needed
            limits.append(smallest.bytes - self._other_bytes + room)
        return min(limits)

    def _smallest_predicted(self, loss: float) -> Choice | None:
        """Return the smallest choice within the limits whose predicted loss is at most `loss`."""
        options = self._table.options
        smallest, largest = front(options, 2, self._max_seconds)
        low, high = options.size(smallest), min(self._size_left(), options.size(largest))
        best = allocate(options, high, self._max_seconds)
        if best is None or options.loss(best) > loss:
            return best  # the best that there is: whoever measures it says that it is too little
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            choice = allocate(options, middle, self._max_seconds)
            if choice is not None and options.loss(choice) <= loss:
                best, high = choice, middle
            else:
                low = middle
        return best

    def _seconds_left(self, recipe: Recipe) -> float:
        """Return how many seconds of a token the matrices may take."""
        if self._budget.profile is None or not self._budget.min_tokens_per_s:
            return float("inf")
        whole = decode_s(self._facts(self._plan(recipe)), self._budget.profile, ANSWER_POSITION)
        other = whole - self._table.options.time(self._choice(recipe))
        return 1 / self._budget.min_tokens_per_s - other

    def _plan(self, recipe: Recipe) -> Plan:
        return self._plans.plan(recipe)

    def _facts(self, planned: Plan) -> ModelFacts:
        return facts_of_plan(self._checkpoint, self._shape, planned)

    def _types(self, recipe: Recipe) -> dict[str, str]:
        """Return the type of each of the checkpoint's matrices under a recipe."""
        matrices = (t for t in self._plan(recipe).tensors if t.source and len(t.shape) == 2)
        return {tensor.source: tensor.type for tensor in matrices}

    def _choice(self, recipe: Recipe) -> Choice:
        return self._table.choice(self._types(recipe))


def _seconds_per_weight(budget: Budget, profile: DeviceProfile) -> dict[str, float]:
    """Return what a weight of each type takes of a token on the device."""
    types = {s.tensor_type: s.bits / 8 for s in SCHEMES[budget.format].values()}
    return {kind: matrix_s_per_weight(kind, size, profile) for kind, size in types.items()}


def _companion_bytes(checkpoint: Checkpoint) -> int:
    """Return about what lies beside an ONNX model: the tokenizer and small configurations."""
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    sizes = (p.stat().st_size for name in files if (p := checkpoint.path / name).is_file())
    return sum(sizes) + SMALL_FILES_BYTES


def _worth(point: Point) -> tuple[float, int]:
    return (point.predicted if point.measured is None else point.measured, point.bytes)


def _size(point: Point) -> int:
    return point.bytes


def _why(chosen: Point, held: Sequence[Point], budget: Budget) -> str:
    """Return in a sentence what the choice stands against."""
    presets = [p for p in held if p.is_preset]
    if not presets:
        return "no preset holds the budget"
    key = _worth if budget.max_kld is None else _size
    best = min(presets, key=key)
    if chosen is best:
        return f"the search found nothing better than the preset {best.recipe.scheme}"
    if budget.max_kld is not None:
        saved = 1 - chosen.bytes / best.bytes
        return f"{saved:.0%} smaller than {best.recipe.scheme}, the smallest preset that holds it"
    less = 1 - _worth(chosen)[0] / _worth(best)[0]
    return f"loses {less:.0%} less than {best.recipe.scheme}, the best preset within the budget"


def _nothing_holds(points: Sequence[Point], budget: Budget) -> GateError:
    hint = "ask for more bytes, a wider divergence or a larger device"
    if budget.max_kld is not None and any(p.measured is not None for p in points):
        best = min(points, key=_worth)
        found = f"{best.recipe.name} ({format_bytes(best.bytes)}) has {_worth(best)[0]:.4f}"
        return GateError(
            f"nothing within the budget has a divergence of {budget.max_kld}: {found}", hint
        )
    smallest = min(points, key=_size)
    limits = [] if budget.max_bytes is None else [f"{format_bytes(budget.max_bytes)}"]
    limits += [] if budget.profile is None else [f"the memory of {budget.profile.name}"]
    if budget.min_tokens_per_s:
        limits.append(f"{budget.min_tokens_per_s:g} tokens/s")
    found = f"the smallest preset is {smallest.recipe.name} with {format_bytes(smallest.bytes)}"
    if smallest.tokens_per_s is not None:
        found += f" and {smallest.tokens_per_s:.1f} tokens/s expected"
    return GateError(f"nothing holds {' and '.join(limits)}: {found}", hint)
