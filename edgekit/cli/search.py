"""edgekit search: the settings that train best, by trial."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import json_option, print_json, styled, table
from edgekit.errors import GateError, InputError, UsageError

if TYPE_CHECKING:
    from edgekit.train.search_space import Value
    from edgekit.train.study import Trial
    from edgekit.workflows.search import Searched


@click.command(short_help="Find the settings that train best.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Write CONFIG with the best values here."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the trials: a PNG.")
@click.option("--replace", is_flag=True, help="Replace these files if they exist.")
@json_option
def search(
    config: Path, out: Path | None, picture: Path | None, replace: bool, as_json: bool
) -> None:
    """Try settings as the section [search] of the TOML file CONFIG says.

    Each trial is a run of the trainer that leaves only its figures. Run the same command again
    after an interruption, or several times at once: they work on the same search.
    """
    from edgekit.cli.progress import Bars
    from edgekit.train.configuration import read_configuration
    from edgekit.workflows.search import run_search

    configuration, bars = read_configuration(config), Bars()
    _require_free(config, out, picture, replace)
    try:
        found = run_search(configuration, progress=bars, tell=bars.say, announce=_announce)
    except KeyboardInterrupt:
        click.echo("\nthe trials so far are kept: the same command goes on", err=True)
        raise
    _finish(found, out, picture, as_json)


def _require_free(config: Path, out: Path | None, picture: Path | None, replace: bool) -> None:
    """Raise UsageError or InputError if what is found could not be written."""
    if out is not None and out.absolute().parent.resolve() != config.absolute().parent.resolve():
        raise UsageError(
            f"{out} would lie in another folder than {config}, and the paths in it are relative",
            hint=f"write it beside: -o {config.parent / out.name}",
        )
    if out is not None and out.exists() and out.samefile(config):
        raise UsageError(f"-o {out} is the configuration itself", hint="choose another name")
    for path in (out, picture):
        if path is not None and path.is_dir():
            raise UsageError(f"{path} is a folder", hint="name a file")
        if path is not None and path.exists() and not replace:
            raise InputError(f"{path} exists already", hint="choose another name, or --replace")


def _announce(trial: Trial, best: Trial | None) -> None:
    """Say how a trial ended, on a line above the bar."""
    mark = styled(", the best so far", fg="green") if best == trial else ""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(
        f"{clear}  trial {trial.number}: {_figure(trial)} {_settings(trial.values)}{mark}", err=True
    )


def _finish(found: Searched, out: Path | None, picture: Path | None, as_json: bool) -> None:
    """Write the files and print what was found. Raises GateError if no trial helped."""
    from edgekit.files import write_atomically

    if picture is not None:
        write_atomically(picture, found.picture())
    written = out if found.helps else None
    if written is not None:
        write_atomically(written, found.best_text().encode())
    if as_json:
        print_json(_document(found, written, picture))
    else:
        _print(found, written, picture)
    if not found.helps:
        raise GateError(
            _why_not(found),
            hint="try a lower learning rate, more steps, or other values in [search.space]",
        )


def _why_not(found: Searched) -> str:
    best = found.best
    if best is None:
        return f"none of {len(found.trials)} trials came to its end"
    return (
        f"no trial made the model better: its {found.figure} was {found.before:.4f}, and is "
        f"{best.figure:.4f} after the best"
    )


def _document(found: Searched, out: Path | None, picture: Path | None) -> dict[str, Any]:
    best = found.best
    return {
        "sampler": found.search.sampler,
        "figure": found.figure,
        "before": found.before,
        "best": None if best is None else asdict(best),
        "trials": [asdict(trial) for trial in found.trials],
        "study": str(found.folder),
        "configuration": None if out is None else str(out),
        "picture": None if picture is None else str(picture),
    }


def _print(found: Searched, out: Path | None, picture: Path | None) -> None:
    names = [parameter.name for parameter in found.search.space]
    rows = [
        [str(t.number), *(_said(t.values.get(name, "-")) for name in names), _figure(t),
         f"{t.seconds:.1f} s"]
        for t in sorted(found.trials, key=_by_figure)
    ]  # fmt: skip
    click.echo(table(["trial", *names, found.figure, "time"], rows))
    if found.before is not None:
        click.echo(f"\nbefore training: {found.before:.4f}")
    if found.best is not None and found.helps:
        click.echo(f"best: trial {found.best.number}, {_settings(found.best.values)}")
    for what, path in (("configuration", out), ("picture", picture)):
        if path is not None:
            click.echo(f"{what}: {path}")
    if out is not None:
        click.echo(f"next: edgekit train {out}")


def _by_figure(trial: Trial) -> tuple[bool, bool, float, int]:
    """Finished trials come first, the best of them at the top; those without a figure last."""
    figure = trial.figure
    return trial.state != "finished", figure is None, figure or 0.0, trial.number


def _figure(trial: Trial) -> str:
    figure = "-" if trial.figure is None else f"{trial.figure:.4f}"
    if trial.same_as is not None:
        return f"{figure} (as trial {trial.same_as})"
    return figure if trial.state == "finished" else f"{figure} ({trial.state})"


def _settings(values: dict[str, Value]) -> str:
    return ", ".join(f"{name} = {_said(value)}" for name, value in values.items())


def _said(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
