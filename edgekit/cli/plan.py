"""edgekit plan: what of a model fits a device, and how fast it will be."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import facts, json_option, print_json, styled, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.model_facts import ModelFacts
    from devices.speed import Costs
    from edgekit.artifact import Format
    from edgekit.cli.progress import Bars
    from edgekit.workflows.plan import Candidate, DevicePlan


@click.command(short_help="What fits a device, and how fast it will be.")
@click.argument("model")
@click.option("--device", default="this", show_default=True, help="A profile's name or file.")
@click.option("--context", type=click.IntRange(2), help="Tokens; default the model's, up to 4096.")
@click.option("--prompt-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--min-tokens-per-s", type=click.FloatRange(0), help="Refuse what is slower.")
@click.option("--measure", is_flag=True, help="Time the engines' kernels here first, for `this`.")
@json_option
def plan(
    model: str,
    device: str,
    context: int | None,
    prompt_tokens: int,
    min_tokens_per_s: float | None,
    measure: bool,
    as_json: bool,
) -> None:
    """Predict memory and speed of MODEL, a checkpoint, an artifact or a .gguf file, on a device.

    For a checkpoint every scheme of both formats is planned, and the best that fits is named.
    Nothing is loaded or converted. Exit code 5 if nothing fits.
    """
    from devices.profile import load_profile
    from edgekit.cli.progress import Bars
    from edgekit.workflows.plan import Wish, enforce
    from edgekit.workflows.plan import plan as plan_model

    if measure and device != "this":
        raise UsageError("--measure times this machine", hint="leave out --device")
    wish = Wish(context, prompt_tokens, min_tokens_per_s)
    profile, bars = load_profile(device), Bars()
    measured = partial(_measure, profile.threads, bars) if measure else None
    found = plan_model(model, profile, wish, bars, measured)
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    enforce(found)


def _measure(threads: int, bars: Bars, forms: Sequence[ModelFacts]) -> dict[Format, Costs]:
    from edgekit.workflows.plan_kernels import kinds_of, measure_costs

    return measure_costs(kinds_of(forms), threads, bars)


def _document(found: DevicePlan) -> dict[str, Any]:
    best = found.best
    return {
        "model": found.name,
        "device": found.profile.name,
        "fits": found.fits,
        "in_budget": best.in_budget,
        "format": best.model.format,
        "scheme": best.model.scheme,
        "why": found.why,
        **_figures(best),
        "memory": best.estimate.memory,
        "uncertainty": best.estimate.uncertainty,
        "usable_memory_bytes": found.profile.usable_memory_bytes,
        "context_length": best.estimate.context_length,
        "prompt_tokens": best.estimate.prompt_tokens,
        "candidates": [_candidate(candidate) for candidate in found.candidates],
        "left_out": found.left_out,
    }


def _figures(candidate: Candidate) -> dict[str, Any]:
    found = candidate.estimate
    return {
        "peak_memory_bytes": found.peak_memory_bytes,
        "needed_memory_bytes": found.needed_memory_bytes,
        "prefill_tokens_per_s": found.prefill_tokens_per_s,
        "decode_tokens_per_s": found.decode_tokens_per_s,
        "ttft_s": found.ttft_s,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "format": candidate.model.format,
        "scheme": candidate.model.scheme,
        "fits": candidate.fits,
        "in_budget": candidate.in_budget,
        "why": candidate.why,
        "file_bytes": candidate.model.file_bytes,
        "bits_per_weight": candidate.bits_per_weight,
        **_figures(candidate),
    }


def _print(found: DevicePlan) -> None:
    from edgekit.units import format_bytes

    best, profile = found.best.estimate, found.profile
    share = best.uncertainty
    verdict = "fits" if found.fits else "does not fit"
    pairs = [
        ("device", f"{profile.title}: {format_bytes(profile.usable_memory_bytes)} usable"),
        ("verdict", styled(verdict, fg="green" if found.fits else "red") + f": {found.why}"),
        (
            "peak memory",
            f"{format_bytes(best.peak_memory_bytes)} {_range(share, 'peak_memory_bytes')}",
        ),
        (
            "decode",
            f"{best.decode_tokens_per_s:.1f} tokens/s {_range(share, 'decode_tokens_per_s')}",
        ),
        (
            "prefill",
            f"{best.prefill_tokens_per_s:.0f} tokens/s {_range(share, 'prefill_tokens_per_s')}",
        ),
        ("TTFT", f"{best.ttft_s:.2f} s for {best.prompt_tokens} tokens {_range(share, 'ttft_s')}"),
        ("memory is", ", ".join(f"{k} {format_bytes(v)}" for k, v in best.memory.items() if v)),
        ("context", f"{best.context_length} tokens, filled"),
    ]
    click.echo(facts(pairs) + "\n")
    headings = ["scheme", "file", "bits", "memory", "decode", "TTFT", "", "why"]
    lines = table(headings[:-1], [_row(candidate) for candidate in found.candidates]).splitlines()
    reasons = [headings[-1], "---", *(candidate.why for candidate in found.candidates)]
    width = max(len(line) for line in lines)
    for line, reason in zip(lines, reasons, strict=True):
        click.echo(f"{line.ljust(width)}  {reason}".rstrip())


def _range(uncertainty: dict[str, float], figure: str) -> str:
    return f"(± {uncertainty[figure]:.0%})"


def _row(candidate: Candidate) -> list[str]:
    from edgekit.units import format_bytes

    found = candidate.estimate
    return [
        f"{candidate.model.format} {candidate.model.scheme}",
        format_bytes(candidate.model.file_bytes),
        f"{candidate.bits_per_weight:.2f}",
        format_bytes(found.peak_memory_bytes),
        f"{found.decode_tokens_per_s:.1f}/s",
        f"{found.ttft_s:.2f} s",
        ("fits" if candidate.in_budget else "slow") if candidate.fits else "no",
    ]
