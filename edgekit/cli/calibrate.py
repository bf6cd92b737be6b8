"""edgekit calibrate: measure which weights of a checkpoint matter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import facts, json_option, print_json, table

if TYPE_CHECKING:
    from converters.calibrate import Engine

ENGINES: tuple[Engine, ...] = ("torch", "llama.cpp")


@click.command(short_help="Measure which weights matter to the model.")
@click.argument("checkpoint")
@click.option("--text", type=click.Path(path_type=Path), help="Default: the model's own writing.")
@click.option("--tokens", type=click.IntRange(1), help="How much text; default 24,384, or a file.")
@click.option("--engine", type=click.Choice(ENGINES), default="torch", help="Default torch.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also write the matrix here.")
@json_option
def calibrate(
    checkpoint: str,
    text: Path | None,
    tokens: int | None,
    engine: Engine,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make the importance matrix of CHECKPOINT: the mean squared input of every matrix.

    `convert --calibrate` makes and uses the same one. The file is in llama.cpp's format.
    """
    from converters.architectures import describe
    from converters.calibrate import measure
    from converters.checkpoint import Checkpoint
    from converters.importance_file import save_importance
    from edgekit.cli.progress import Bars
    from edgekit.store import cache, find_checkpoint

    start = time.perf_counter()
    source = Checkpoint.open(find_checkpoint(checkpoint))
    found = measure(source, text, cache() / "importance", Bars(), tokens=tokens, engine=engine)
    if out is not None:
        save_importance(found.importance, describe(source), out)
    _print(
        {
            "importance": str(out or found.file),
            "source": found.importance.source,
            "tokens": found.importance.tokens,
            "kinds": found.kinds,
            "matrices": len(found.importance.channels),
            "engine": engine,
            "seconds": time.perf_counter() - start,
        },
        as_json,
    )


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = [(kind, f"{count:,}") for kind, count in found["kinds"].items()]
    if len(rows) != 1:
        rows.append(("all", f"{found['tokens']:,}"))
    click.echo(table(["text", "tokens"], rows) + "\n")
    click.echo(
        facts(
            [
                ("source", found["source"]),
                ("matrices", f"{found['matrices']}, by {found['engine']}"),
                ("time", f"{found['seconds']:.1f} s"),
                ("importance", found["importance"]),
            ]
        )
    )
