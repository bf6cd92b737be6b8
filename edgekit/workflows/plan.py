"""plan: what of a model fits a device and how fast it will be, before any work is done.

Predictions only: nothing is loaded, converted or measured but the machine itself (`this`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from devices.estimate import DEFAULT_PROMPT_TOKENS, Estimate, estimate
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile
from devices.speed import Costs
from edgekit.artifact import Format
from edgekit.errors import GateError, InputError, UsageError
from edgekit.progress import Progress
from edgekit.units import format_bytes
from edgekit.workflows.plan_models import open_model
from runtimes.load import DEFAULT_CONTEXT_LENGTH

# Best first. 8 bits and up by how little they lose; below, llama.cpp's published divergences (its
# tools/quantize/README.md) and our own of SmolLM2: int8 0.005, q4_k_m 0.06, iq4_nl 0.23, int4 0.31.
QUALITY = (
    "f32", "bf16", "f16", "q8_0", "int8", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m",
    "q4_k_s", "iq4_nl", "iq4_xs", "q4_1", "q4_0", "int4_asymmetric", "int4", "q3_k_m",
)  # fmt: skip
# Not chosen where an 8-bit scheme fits: twice the bytes for a divergence of 0.005 less.
FLOATS = ("f32", "bf16", "f16")

Measure = Callable[[Sequence[ModelFacts]], Mapping[Format, Costs]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of the device. None means: the default, or no demand."""

    context_length: int | None = None
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS
    min_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One form of the model on the device. `why` says why it was chosen, or why not."""

    model: ModelFacts
    estimate: Estimate
    fits: bool
    in_budget: bool
    why: str

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of tensor data over the number of weights."""
        return 8 * self.model.weight_bytes / self.model.parameters


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """The answer: the best form that fits, and all that were looked at.

    `best` is the nearest to fitting where none `fits`; `why` says in a sentence what was decided.
    """

    name: str
    profile: DeviceProfile
    fits: bool
    best: Candidate
    why: str
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]


def plan(
    name_or_path: str,
    profile: DeviceProfile,
    wish: Wish,
    progress: Progress,
    measured: Measure | None = None,
) -> DevicePlan:
    """Return what of a checkpoint, artifact or GGUF file fits `profile`, and the best of it.

    `measured` is asked once for what the weights of the possible forms cost, by format; without
    it the profile's figures decide.

    Raises InputError for a bad model or a context longer than the model's, UsageError for
    impossible numbers.
    """
    source = open_model(name_or_path, progress)
    context_length = _context_length(source.forms, wish)
    costs = {} if measured is None else measured(source.forms)
    judged = [
        _judge(
            model, profile, wish, min(context_length, model.context_length), costs.get(model.format)
        )
        for model in source.forms
    ]
    best, why = _choose(judged, profile)
    return DevicePlan(
        source.name,
        profile,
        best.fits,
        best,
        why,
        tuple(_explained(candidate, best) for candidate in judged),
        source.left_out,
    )


def enforce(found: DevicePlan) -> None:
    """Raise GateError, with both numbers, if nothing fits the device."""
    if not found.fits:
        raise GateError(
            f"{found.name} does not fit {found.profile.name}: {found.why}",
            hint="ask for a shorter context, or choose a smaller model or a larger device",
        )


def _context_length(forms: Sequence[ModelFacts], wish: Wish) -> int:
    longest = max(model.context_length for model in forms)
    asked = min(longest, DEFAULT_CONTEXT_LENGTH)
    asked = asked if wish.context_length is None else wish.context_length
    if asked < 2:
        raise UsageError(f"a context of {asked} tokens holds no prompt and answer")
    if asked > longest:
        raise InputError(
            f"a context of {asked} tokens is asked for, the model has {longest}",
            hint=f"ask for {longest} tokens at most",
        )
    return asked


def _judge(
    model: ModelFacts, profile: DeviceProfile, wish: Wish, context_length: int, costs: Costs | None
) -> Candidate:
    found = estimate(
        model,
        profile,
        context_length=context_length,
        prompt_tokens=wish.prompt_tokens,
        costs=costs,
    )
    obstacle = _obstacle(model, found, profile, wish)
    misses = _misses(found, profile)
    return Candidate(model, found, not obstacle, not misses, obstacle or misses)


def _obstacle(model: ModelFacts, found: Estimate, profile: DeviceProfile, wish: Wish) -> str:
    """Return why the device cannot run the model as wished, or an empty text."""
    if model.format not in profile.engines:
        return f"the device has no engine for {model.format}"
    asked = wish.context_length
    if asked is not None and asked > model.context_length:
        return f"its context is {model.context_length} tokens, {asked} are asked for"
    if found.needed_memory_bytes > profile.usable_memory_bytes:
        needed = format_bytes(found.needed_memory_bytes)
        return f"needs {needed}, the device has {format_bytes(profile.usable_memory_bytes)}"
    if wish.min_tokens_per_s is not None and found.decode_tokens_per_s < wish.min_tokens_per_s:
        return (
            f"{found.decode_tokens_per_s:.1f} tokens/s expected, "
            f"{wish.min_tokens_per_s:g} are asked for"
        )
    return ""


def _misses(found: Estimate, profile: DeviceProfile) -> str:
    """Return which budget of the profile is missed, or an empty text."""
    if 0 < profile.budget_peak_memory_bytes < found.needed_memory_bytes:
        budget = format_bytes(profile.budget_peak_memory_bytes)
        return f"{format_bytes(found.needed_memory_bytes)} of memory, the budget is {budget}"
    if found.decode_tokens_per_s < profile.budget_tokens_per_s:
        speed, budget = found.decode_tokens_per_s, f"{profile.budget_tokens_per_s:g}"
        return f"{speed:.1f} tokens/s, the budget is {budget}"
    if 0 < profile.budget_ttft_s < found.ttft_s:
        return f"first token after {found.ttft_s:.1f} s, the budget is {profile.budget_ttft_s:g} s"
    return ""


def _choose(judged: Sequence[Candidate], profile: DeviceProfile) -> tuple[Candidate, str]:
    """Return the best candidate and why: quality first, once the budgets are held."""
    fitting = [candidate for candidate in judged if candidate.fits]
    if not fitting:
        nearest = min(judged, key=lambda c: c.estimate.needed_memory_bytes)
        return nearest, f"even {_label(nearest)} {nearest.why}"
    held = [candidate for candidate in fitting if candidate.in_budget]
    if not held:
        fastest = max(fitting, key=lambda c: (c.estimate.decode_tokens_per_s, -_rank(c)))
        return fastest, (
            f"{_label(fastest)} is the fastest that fits; nothing holds the budget of "
            f"{profile.name}: {fastest.why}"
        )
    compact = [c for c in held if c.model.scheme not in FLOATS] or held
    best = min(compact, key=lambda c: (_quality(c), -c.estimate.decode_tokens_per_s))
    if len(judged) == 1:
        return best, f"{_label(best)} fits, and holds the budget of {profile.name}"
    return best, f"{_label(best)} loses least among what fits and holds the budget"


def _explained(candidate: Candidate, best: Candidate) -> Candidate:
    """Return `candidate` with the reason why it is, or is not, the best."""
    why = candidate.why
    if candidate is best:
        why = why or "chosen"
    elif not why:
        why = _why_second(candidate, best)
    return Candidate(candidate.model, candidate.estimate, candidate.fits, candidate.in_budget, why)


def _why_second(candidate: Candidate, best: Candidate) -> str:
    if candidate.model.scheme in FLOATS and best.model.scheme not in FLOATS:
        return f"hardly better than {_label(best)} for more bytes"
    if _quality(candidate) == _quality(best):
        return f"as good as {_label(best)}, and slower"
    return f"loses more than {_label(best)}"


def _rank(candidate: Candidate) -> int:
    scheme = candidate.model.scheme
    return QUALITY.index(scheme) if scheme in QUALITY else len(QUALITY)


def _quality(candidate: Candidate) -> int:
    """Return the place in QUALITY; the two 8-bit schemes share one."""
    return QUALITY.index("q8_0") if candidate.model.scheme == "int8" else _rank(candidate)


def _label(candidate: Candidate) -> str:
    return f"{candidate.model.format} {candidate.model.scheme}"
