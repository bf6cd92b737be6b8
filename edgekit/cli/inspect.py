"""edgekit inspect: the facts of a checkpoint, an artifact, a GGUF or an ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.output import facts, json_option, print_json


@click.command(short_help="Show the facts of a checkpoint, artifact, GGUF or ONNX file.")
@click.argument("path")
@click.option("--verify", is_flag=True, help="Compare every hash of an artifact.")
@json_option
def inspect(path: str, verify: bool, as_json: bool) -> None:
    """Show the facts of PATH; only headers are read, no engine is started.

    PATH is a folder, a file, or the name of an artifact or checkpoint in the store.
    """
    from edgekit.cli.progress import Bars
    from edgekit.workflows.inspect import inspect as inspect_path

    found = inspect_path(Path(path), verify, Bars())
    if as_json:
        print_json(found)
    else:
        pairs = [(k, str(v)) for k, v in found.items() if not isinstance(v, (dict, list))]
        nested = [(k, f"{len(v)} entries") for k, v in found.items() if isinstance(v, (dict, list))]
        click.echo(facts([(k.replace("_", " "), v) for k, v in pairs + nested]))
