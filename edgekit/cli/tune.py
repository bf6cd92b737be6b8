"""edgekit tune: from a budget to the recipe that loses least within it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import json_option, print_json, styled, table

if TYPE_CHECKING:
    from edgekit.workflows.tune.wish import Budget, Point, Tuned


@click.command(short_help="The recipe that loses least within a budget.")
@click.argument("checkpoint")
@click.option("--format", "format_name", type=click.Choice(["gguf", "onnx"]), default="gguf")
@click.option("--max-size", help="Of the whole artifact: bytes, or like 95MB.")
@click.option(
    "--max-kld", type=click.FloatRange(0, min_open=True), help="The smallest that holds it."
)
@click.option("--device", help="A profile's name or file: its memory is a limit.")
@click.option("--min-tokens-per-s", type=click.FloatRange(0, min_open=True), help="On the device.")
@click.option("--text", type=click.Path(path_type=Path), help="Judge by this text, UTF-8.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The recipe, a .toml file.")
@click.option("--picture", type=click.Path(path_type=Path), help="The front as a PNG.")
@json_option
def tune(
    checkpoint: str,
    format_name: str,
    max_size: str | None,
    max_kld: float | None,
    device: str | None,
    min_tokens_per_s: float | None,
    text: Path | None,
    out: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Choose a type for each tensor of CHECKPOINT, so that least is lost within the budget.

    What each type loses is predicted from the model's own gradients; the best recipe and the best
    presets are then measured, and the winner is written for edgekit convert --recipe. Interrupted,
    the same command goes on where it was. Exit code 5 if nothing holds the budget.
    """
    from edgekit.cli.budget import budget_of, search
    from edgekit.files import write_atomically

    budget = budget_of(format_name, max_size, max_kld, device, min_tokens_per_s)
    source, found = search(checkpoint, budget, text)
    name = source.path.resolve().name
    out = out or Path(f"{name}-{found.chosen.recipe.name}.toml")
    write_atomically(out, found.chosen.recipe.to_toml().encode())
    if picture is not None:
        from edgekit.workflows.tune.picture import draw

        draw(found, name, picture)
    if as_json:
        print_json(document(found) | {"recipe": str(out)})
        return
    _print(found, budget)
    click.echo(f"\nrecipe: {out}" + (f"\npicture: {picture}" if picture else ""))
    click.echo(f"next: edgekit convert {checkpoint} --recipe {out} --calibrate")


def document(found: Tuned) -> dict[str, Any]:
    """Return what a search found, with the keys that scripts may rely on."""
    return {
        "scheme": found.chosen.recipe.scheme,
        "per_tensor": dict(found.chosen.recipe.per_tensor),
        **_figures(found.chosen),
        "why": found.why,
        "points": [_figures(point) for point in found.points],
        "front": [_figures(point) for point in found.front],
    }


def _figures(point: Point) -> dict[str, Any]:
    return {
        "name": point.recipe.name,
        "bytes": point.bytes,
        "kld_measured": point.measured,
        "kld_predicted": point.predicted,
        "tokens_per_s": point.tokens_per_s,
        "is_preset": point.is_preset,
    }


def _print(found: Tuned, budget: Budget) -> None:
    """Show what was measured, the chosen one marked, and why it was chosen."""
    from edgekit.units import format_bytes

    headings = ["recipe", "size", "KL measured", "predicted"]
    rows = []
    for point in sorted(found.points, key=lambda p: p.bytes):
        mark = "*" if point is found.chosen else " "
        measured = "-" if point.measured is None else f"{point.measured:.4f}"
        row = [f"{mark} {point.recipe.name}", format_bytes(point.bytes), measured]
        row.append(f"{point.predicted:.4f}")
        if point.tokens_per_s is not None:
            row.append(f"{point.tokens_per_s:.0f}/s")
        rows.append(row)
    if budget.profile is not None:
        headings.append("expected")
    click.echo(table(headings, rows))
    click.echo(f"\n{styled('*', bold=True)} {found.chosen.recipe.name}: {found.why}")
