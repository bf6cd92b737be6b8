"""edgekit train: a checkpoint learns from chats or texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import facts, json_option, print_json, styled, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from converters.recipe import Recipe
    from edgekit.artifact import Artifact
    from edgekit.train.dataset import Report
    from edgekit.workflows.train import FineTuned, Prepared


@click.command(short_help="Train a checkpoint on chats or texts.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: into the store.")
@click.option("--then-convert", "recipe", help="gguf:q8_0, or a recipe's name or file.")
@click.option("--dry-run", is_flag=True, help="Check everything, show the plan, write nothing.")
@click.option("--replace", is_flag=True, help="Replace the folder if it exists.")
@json_option
def train(
    config: Path,
    out: Path | None,
    recipe: str | None,
    dry_run: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Train as the TOML file CONFIG says, and write an ordinary checkpoint.

    Every record is checked before the first step. Run the same command again after an
    interruption: it goes on. The weights are those that did best on held-out records.
    """
    from edgekit.cli.progress import Bars
    from edgekit.store import models, safe_name
    from edgekit.train.configuration import read_configuration
    from edgekit.workflows import train as workflow

    configuration, bars = read_configuration(config), Bars()
    then = None if recipe is None else _recipe(recipe)
    out = out or models() / safe_name(config.stem)
    if dry_run:
        _print_plan(workflow.prepare_training(configuration, bars), as_json)
        return
    if then is not None and not replace:
        workflow.require_free(out, then)
    trained = workflow.run_training(
        configuration, out, progress=bars, tell=bars.say, announce=_announce, replace=replace
    )
    artifact = None
    if then is not None:
        artifact = workflow.convert_training(trained, then, bars, replace=replace)
    _print(trained, artifact, as_json)


def _recipe(text: str) -> Recipe:
    """Return the recipe that `gguf:q8_0`, a name or a file stands for."""
    from converters.recipe import Recipe

    format_name, colon, scheme = text.partition(":")
    if not colon or text.endswith(".toml"):
        return Recipe.named(text)
    if not scheme:
        raise UsageError(f"--then-convert {text} names no scheme", "write gguf:q8_0")
    return Recipe.of(format_name, scheme)


def _announce(prepared: Prepared) -> None:
    """Say what was found in the data, and whether an interrupted run goes on."""
    for note in _notes(prepared.data.report):
        click.echo(f"{styled('note:', fg='yellow')} {note}", err=True)
    if prepared.resumed_step is not None:
        click.echo(f"an interrupted run goes on at step {prepared.resumed_step}", err=True)


def _notes(report: Report) -> list[str]:
    counts = [
        (report.skipped, "records are left out: too long, or nothing in them to learn"),
        (report.leaking, "training records are left out: the evaluation files have them"),
        (report.duplicates, "records have the same words as an earlier one"),
        (report.near_duplicates, "records are similar to an earlier one"),
        (report.straddling, "of those are held out while the other is not, or the reverse"),
    ]
    notes = [f"{count} {what}" for count, what in counts if count]
    return [*notes, *([report.first_duplicate] if report.first_duplicate else [])]


def _print_plan(prepared: Prepared, as_json: bool) -> None:
    from dataclasses import asdict

    data = prepared.data
    found: dict[str, Any] = {
        "checkpoint": str(prepared.parent.path),
        "training_records": data.training.records,
        "training_tokens": sum(data.training.lengths),
        "training_targets": sum(data.training.targets),
        "evaluation_records": data.evaluation.records,
        "evaluation_targets": sum(data.evaluation.targets),
        "context": prepared.context,
        "steps": prepared.steps,
        "resumed_step": prepared.resumed_step,
    }
    if as_json:
        print_json(found | {"data": asdict(data.report), "digest": prepared.digest})
        return
    shown = [(name.replace("_", " "), "-" if v is None else str(v)) for name, v in found.items()]
    click.echo(facts(shown))
    for note in _notes(data.report):
        click.echo(note)


def _print(trained: FineTuned, artifact: Artifact | None, as_json: bool) -> None:
    from edgekit.train.heads.metrics import NAMES

    how = trained.how
    if as_json:
        named = {} if artifact is None else {"artifact": str(artifact.path)}
        print_json({"checkpoint": str(trained.checkpoint.path), **named, **how})
        return
    before, after = how["before"], how["after"]
    known = NAMES if "kind" in how else {"loss": "loss, nats a token"}
    rows = [
        [known.get(name, name), f"{before[name]:.4f}", f"{value:.4f}"]
        for name, value in after.items()
    ]
    click.echo(table(["held-out records", "before", "after"], rows))
    speed = how["tokens"] / max(how["seconds"], 0.1)
    work = f"{how['steps']} steps, {how['tokens']} tokens, {speed:.0f} tokens/s"
    click.echo(f"\n{trained.checkpoint.path}: {work}")
    if how["stopped"]:
        click.echo(f"stopped early: {how['stopped']}; the best weights were kept")
    if trained.already_there:
        click.echo("it was finished before: nothing was trained")
    if artifact is not None:
        click.echo(f"artifact: {artifact.path}")
