"""edgekit latency: which artifact meets the budget of which device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import json_option, print_json, table

if TYPE_CHECKING:
    from edgekit.workflows.latency.grid import Cell, Grid


@click.command(short_help="Hold artifacts to the budgets of devices.")
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACT...")
@click.option(
    "--device", "devices", multiple=True, help="A name or a file, may be repeated. Default: all."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder for the report and the pictures."
)
@click.option("--no-rehearsal", is_flag=True, help="Predict only; run nothing under limits.")
@click.option("--prompt-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--answer-tokens", default=64, show_default=True, type=click.IntRange(2))
@json_option
def latency(
    artifacts: tuple[str, ...],
    devices: tuple[str, ...],
    out: Path | None,
    no_rehearsal: bool,
    prompt_tokens: int,
    answer_tokens: int,
    as_json: bool,
) -> None:
    """Judge each ARTIFACT by each device's budget.

    A device that is this machine is measured. Any other is predicted, and the artifact is run
    here under the device's memory, processors and speed: a rehearsal, whose times are not the
    device's. Exit 5 if a device that was named misses its budget, or if a ratio is out of band.
    """
    from edgekit.artifact import Artifact
    from edgekit.cli.progress import Bars
    from edgekit.store import find_artifact
    from edgekit.workflows.bench import Workload
    from edgekit.workflows.latency.grid import choose, measure_grid
    from edgekit.workflows.latency.report import document

    opened = [Artifact.open(find_artifact(name)) for name in artifacts]
    workload = Workload(prompt_tokens, answer_tokens)
    rehearse = not no_rehearsal
    grid = measure_grid(opened, choose(devices), Bars(), workload=workload, rehearse=rehearse)
    written = [] if out is None else _write(grid, out)
    if as_json:
        print_json({**document(grid), "files": [str(path) for path in written]})
    else:
        click.echo(_table(grid))
        for path in written:
            click.echo(f"wrote {path}")
    _enforce(grid, named=bool(devices))


def _write(grid: Grid, folder: Path) -> list[Path]:
    """Write the pictures first: a report is there only with them."""
    from edgekit.workflows.latency import picture, report

    return picture.write(grid, folder) + report.write(grid, folder)


def _table(grid: Grid) -> str:
    from edgekit.workflows.latency.report import MEANINGS, SIGNS

    heads = [f"{a.manifest.format} {a.manifest.scheme}" for a in grid.artifacts]
    rows = [
        [profile.name, *(_cell(grid.cell(profile, artifact)) for artifact in grid.artifacts)]
        for profile in grid.profiles
    ]
    legend = ", ".join(f"{SIGNS[verdict]} {meaning}" for verdict, meaning in MEANINGS.items())
    return "\n".join(
        [
            table(["device", *heads], rows),
            "",
            legend,
            "time to first token and decode; * measured here, all else is predicted",
        ]
    )


def _cell(cell: Cell) -> str:
    from edgekit.workflows.latency.grid import figures_of
    from edgekit.workflows.latency.judge import MEASURED_HERE, Verdict
    from edgekit.workflows.latency.report import SIGNS

    if cell.verdict is Verdict.IMPOSSIBLE:
        return SIGNS[cell.verdict]
    figures = figures_of(cell)
    star = "*" if cell.source == MEASURED_HERE else ""
    first, speed = figures.ttft_s.value, figures.decode_tokens_per_s.value
    return f"{first:.2f} s {speed:.1f}/s{star} {SIGNS[cell.verdict]}"


def _enforce(grid: Grid, *, named: bool) -> None:
    """Raise GateError for a missed budget of a named device, or a ratio out of band."""
    from edgekit.errors import GateError
    from edgekit.workflows.latency.grid import misses

    missed = [line for cell in grid.cells for line in misses(cell)] if named else []
    if missed:
        raise GateError(_several(missed), hint="choose a smaller scheme, or widen the budget")
    if failed := grid.failed_ratios:
        hint = "run it again on a quieter machine; if it stays, the engine does more work than due"
        raise GateError(_several(failed), hint=hint)


def _several(lines: list[str]) -> str:
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return lines[0] + more
