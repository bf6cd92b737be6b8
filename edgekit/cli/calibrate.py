"""edgekit calibrate: measure which weights of a checkpoint matter."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.output import facts, json_option, print_json


@click.command(short_help="Measure which weights matter to the model.")
@click.argument("checkpoint")
@click.option("--text", type=click.Path(path_type=Path), help="Default: the model's own writing.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also write the matrix here.")
@json_option
def calibrate(checkpoint: str, text: Path | None, out: Path | None, as_json: bool) -> None:
    """Make the importance matrix of CHECKPOINT: the mean squared input of every matrix.

    `convert --calibrate` makes and uses the same one. The file is in llama.cpp's format.
    """
    from converters.architectures import describe
    from converters.calibrate import calibrate as calibrate_checkpoint
    from converters.checkpoint import Checkpoint
    from converters.importance_file import save_importance
    from edgekit.cli.progress import Bars
    from edgekit.store import cache, find_checkpoint

    source = Checkpoint.open(find_checkpoint(checkpoint))
    importance = calibrate_checkpoint(source, text, cache() / "importance", Bars())
    if out is not None:
        save_importance(importance, describe(source), out)
    found = {
        "importance": None if out is None else str(out),
        "source": importance.source,
        "tokens": importance.tokens,
        "matrices": len(importance.channels),
    }
    if as_json:
        print_json(found)
        return
    click.echo(facts([(key, str(value)) for key, value in found.items() if value is not None]))
