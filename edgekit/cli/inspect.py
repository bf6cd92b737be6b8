"""edgekit inspect: the facts of a checkpoint, an artifact, a GGUF or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgekit.cli.output import facts, json_option, print_json

MOST_SHOWN = 16


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
        click.echo(facts(list(_lines(found))))


def _lines(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values for people: short lists whole, long ones counted, one level deep."""
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        match value:
            case dict() if not prefix and len(value) <= MOST_SHOWN:
                yield from _lines(value, f"{name}: ")
            case dict() | list() if len(value) > MOST_SHOWN or isinstance(value, dict):
                yield name, f"{len(value)} entries"
            case list():
                yield name, ", ".join(map(str, value)) if _plain(value) else f"{len(value)} entries"
            case float():
                yield name, f"{value:.5g}"
            case _:
                yield name, str(value)


def _plain(values: list[Any]) -> bool:
    return not any(isinstance(value, (dict, list)) for value in values)
