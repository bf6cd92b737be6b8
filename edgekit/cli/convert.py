"""edgekit convert: a checkpoint becomes an artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import facts, json_option, print_json, styled, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converters.plan import Plan
    from converters.recipe import Recipe
    from edgekit.artifact import Artifact, Substitution
    from edgekit.workflows.conversion import Care

DEFAULT_RECIPE = "gguf-q4_k_m"


@click.command(short_help="Convert a checkpoint to an artifact.")
@click.argument("checkpoint")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: into the store.")
@click.option("--recipe", help=f"A recipe's name or file; default {DEFAULT_RECIPE}.")
@click.option("--format", "format_name", help="gguf, onnx or torch, with --scheme.")
@click.option("--scheme", help="q4_k_m, iq4_nl, ... for gguf; int8, int4 for onnx; nf4 for torch.")
@click.option("--calibrate", is_flag=True, help="Weigh rounding errors: see edgekit calibrate.")
@click.option("--compensate", is_flag=True, help="Let codes make up for each other's errors.")
@click.option("--distil", is_flag=True, help="Compensate, then train scales and norms: slow.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of --distil; default 120.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Calibrate on this text.")
@click.option("--importance", type=click.Path(path_type=Path), help="Use this importance matrix.")
@click.option("--max-size", help="Search within this size: see edgekit tune.")
@click.option("--max-kld", type=click.FloatRange(0, min_open=True), help="Search: the smallest.")
@click.option("--device", help="Search within this device's memory.")
@click.option("--min-tokens-per-s", type=click.FloatRange(0, min_open=True), help="On the device.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--replace", is_flag=True, help="Replace the folder if it exists.")
@json_option
def convert(
    checkpoint: str,
    out: Path | None,
    recipe: str | None,
    format_name: str | None,
    scheme: str | None,
    calibrate: bool,
    compensate: bool,
    distil: bool,
    steps: int | None,
    calibration: Path | None,
    importance: Path | None,
    max_size: str | None,
    max_kld: float | None,
    device: str | None,
    min_tokens_per_s: float | None,
    dry_run: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Convert CHECKPOINT, a folder or a name in the store, in one pass.

    The plan comes first: what each tensor becomes, and every type that a tensor's shape forbids.
    Of the same bytes --calibrate makes more, --compensate more still and --distil the most; each
    takes longer than the one before.
    """
    from converters.checkpoint import Checkpoint
    from edgekit.cli.progress import Bars
    from edgekit.store import find_checkpoint
    from edgekit.workflows.conversion import Request, plan_request, run_request

    start = time.perf_counter()
    source = Checkpoint.open(find_checkpoint(checkpoint))
    limits = (max_size, max_kld, device, min_tokens_per_s)
    care = _care(calibrate or calibration or importance or any(limits), compensate, distil)
    if steps is not None and not distil:
        raise UsageError("--steps belongs to --distil", "add --distil")
    if importance is not None and calibration is not None:
        raise UsageError("--importance is a finished matrix", "give it without --calibration")
    if any(limits):
        chosen = _searched(checkpoint, recipe, format_name, scheme, calibration, limits)
    else:
        chosen = _recipe(recipe, format_name, scheme)
    request = Request(source, chosen, care, calibration, importance, steps)
    if dry_run:
        _print_plan(plan_request(request, Bars()), as_json)
        return
    artifact = run_request(
        request,
        out or request.default_folder,
        progress=Bars(),
        replace=replace,
        announce=lambda planned: _warn(planned.substitutions),
    )
    _print(artifact, time.perf_counter() - start, as_json)


def _care(calibrate: object, compensate: bool, distil: bool) -> Care:
    if distil or compensate:
        return "distilled" if distil else "compensated"
    return "calibrated" if calibrate else "plain"


def _searched(
    checkpoint: str,
    recipe: str | None,
    format_name: str | None,
    scheme: str | None,
    text: Path | None,
    limits: tuple[str | None, float | None, str | None, float | None],
) -> Recipe:
    from edgekit.cli.budget import budget_of, search

    if recipe or scheme:
        raise UsageError("a budget chooses the recipe", "leave out --recipe and --scheme")
    return search(checkpoint, budget_of(format_name or "gguf", *limits), text)[1].chosen.recipe


def _recipe(name: str | None, format_name: str | None, scheme: str | None) -> Recipe:
    from converters.recipe import Recipe

    if name is not None and (format_name or scheme):
        raise UsageError("--recipe already says the format and the scheme", "give one or the other")
    if format_name is None and scheme is None:
        return Recipe.named(name or DEFAULT_RECIPE)
    if format_name is None or scheme is None:
        raise UsageError("--format and --scheme go together", "--format gguf --scheme q4_k_m")
    return Recipe.of(format_name, scheme)


def _warn(substitutions: Sequence[Substitution]) -> None:
    """Say before the work what will not be as asked, grouped by the reason."""
    groups: dict[tuple[str, str, str], int] = {}
    for s in substitutions:
        groups[s.asked, s.used, s.why] = groups.get((s.asked, s.used, s.why), 0) + 1
    for (asked, used, why), count in groups.items():
        line = f"{count} tensors become {used} instead of {asked}: {why}"
        click.echo(f"{styled('note:', fg='yellow')} {line}", err=True)


def _print_plan(planned: Plan, as_json: bool) -> None:
    from dataclasses import asdict

    from edgekit.units import format_bytes

    if as_json:
        print_json(
            {
                "bytes": planned.file_bytes,
                "bits_per_weight": planned.bits_per_weight,
                "tensors": [asdict(tensor) for tensor in planned.tensors],
                "substitutions": [asdict(s) for s in planned.substitutions],
            }
        )
        return
    rows = [
        [t.name, "x".join(map(str, t.shape)), t.type, format_bytes(t.bytes)]
        for t in planned.tensors
    ]
    click.echo(table(["tensor", "shape", "type", "size"], rows))
    size = format_bytes(planned.file_bytes)
    click.echo(f"\n{size}, {planned.bits_per_weight:.2f} bits per weight")
    _warn(planned.substitutions)


def _print(artifact: Artifact, seconds: float, as_json: bool) -> None:
    import resource
    import sys
    from dataclasses import asdict

    from edgekit.units import format_bytes

    manifest = artifact.manifest
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_rss_bytes = peak if sys.platform == "darwin" else peak * 1024
    if as_json:
        print_json(
            {
                "artifact": str(artifact.path),
                "bytes": manifest.total_bytes,
                "bits_per_weight": manifest.bits_per_weight,
                "seconds": seconds,
                "peak_rss_bytes": peak_rss_bytes,
                "substitutions": [asdict(s) for s in manifest.substitutions],
            }
        )
        return
    click.echo(
        facts(
            [
                ("artifact", str(artifact.path)),
                ("size", format_bytes(manifest.total_bytes)),
                ("bits/weight", f"{manifest.bits_per_weight:.2f}"),
                ("substituted", f"{len(manifest.substitutions)} tensors"),
                ("time", f"{seconds:.1f} s"),
                ("peak memory", format_bytes(peak_rss_bytes)),
            ]
        )
    )
