"""Certificate: what was proved and measured of an artifact, as its manifest keeps it.

It knows neither models nor engines; who measures is `edgekit.workflows.check`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.errors import InputError
from edgekit.fields import Fields

STAGES = ("source", "pruned", "healed", "exported", "quantised", "loaded")


@dataclass(frozen=True, slots=True)
class StageReport:
    """What was found at one stage between a checkpoint and its answers.

    `stage` is one of STAGES. `ok` is None where the stage could not be judged. `what` is in
    words: what is wrong, or what was looked at. `figures` are numbers by name; divergences are in
    nats per position.
    """

    stage: str
    ok: bool | None
    what: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Greedy:
    """Where the greedy answers of checkpoint and artifact part.

    `parted_at` holds, for each prompt, the number of tokens that are the same; `tokens` is how
    many were generated, so an entry of `tokens` means that they never parted.
    """

    tokens: int
    parted_at: list[int]
    median: float


@dataclass(frozen=True, slots=True)
class Generation:
    """A small benchmark of answers that can be checked: right ones of `questions`, each side.

    `same_answers` counts the questions on which both sides say the same, right or wrong.
    """

    questions: int
    right_source: int
    right_artifact: int
    same_answers: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """How an artifact, run in its own engine, differs from its checkpoint in float32.

    Divergences are in nats per position, KL(checkpoint || artifact). `by_kind` holds for each kind
    of text `positions`, `kld_mean`, its 95 % interval `kld_low` to `kld_high`, `kld_p99`,
    `top1_agreement` and `perplexity`; the kind "long" is left out of the figures over all kinds.
    `kld_low` and `kld_high` are the interval of `kld_mean`, None in older certificates.
    `noise_floor` is the same measurement of the checkpoint against itself. `text_sha256` and
    `checkpoint_digest` say what was compared.
    """

    checkpoint_digest: str
    text_sha256: str
    positions: int
    token_ids_equal: bool
    kld_mean: float
    kld_standard_error: float
    kld_p99: float
    top1_agreement: float
    perplexity: float
    perplexity_source: float
    noise_floor: float
    by_kind: dict[str, dict[str, float]]
    kld_low: float | None = None
    kld_high: float | None = None
    stages: list[StageReport] = field(default_factory=list)
    greedy: Greedy | None = None
    generation: Generation | None = None


def read_certificate(fields: Fields) -> Certificate:
    """Return the certificate in a manifest, older ones included. Raises InputError."""
    by_kind = fields.take("by_kind", dict)
    kinds = Fields(by_kind, f"{fields.where}: 'by_kind'")
    return Certificate(
        checkpoint_digest=fields.take("checkpoint_digest", str),
        text_sha256=fields.take("text_sha256", str),
        positions=fields.count("positions"),
        token_ids_equal=fields.take("token_ids_equal", bool),
        kld_mean=fields.number("kld_mean"),
        kld_standard_error=fields.number("kld_standard_error"),
        kld_p99=fields.number("kld_p99"),
        top1_agreement=fields.number("top1_agreement"),
        perplexity=fields.number("perplexity"),
        perplexity_source=fields.number("perplexity_source"),
        noise_floor=fields.number("noise_floor"),
        by_kind={str(kind): kinds.figures(kind) for kind in by_kind},
        kld_low=fields.number("kld_low") if fields.has("kld_low") else None,
        kld_high=fields.number("kld_high") if fields.has("kld_high") else None,
        stages=[_stage(stage) for stage in fields.objects("stages")],
        greedy=_greedy(fields),
        generation=_generation(fields),
    )


def _stage(fields: Fields) -> StageReport:
    stage = fields.take("stage", str)
    if stage not in STAGES:
        raise InputError(f"{fields.where}: {stage!r:.40} is no stage")
    ok = fields.take("ok", (bool, type(None)))
    return StageReport(stage, ok, fields.take("what", str), fields.figures("figures"))


def _greedy(fields: Fields) -> Greedy | None:
    if not fields.has("greedy"):
        return None
    inside = Fields(fields.take("greedy", dict), f"{fields.where}: 'greedy'")
    parted = inside.take("parted_at", list)
    if not all(type(value) is int and value >= 0 for value in parted):
        raise InputError(f"{inside.where}: 'parted_at' should hold counts")
    return Greedy(inside.count("tokens"), parted, inside.number("median"))


def _generation(fields: Fields) -> Generation | None:
    if not fields.has("generation"):
        return None
    inside = Fields(fields.take("generation", dict), f"{fields.where}: 'generation'")
    names = ("questions", "right_source", "right_artifact", "same_answers")
    return Generation(*(inside.count(name) for name in names))
