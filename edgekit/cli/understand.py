"""edgekit run, for a model that is no chat: a class, entities, or a text made of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import print_json, styled, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from runtimes.tasks import Result

SHOWN_CLASSES = 10


def understand(
    artifact: Artifact,
    text: str,
    *,
    threads: int | None,
    max_tokens: int,
    as_json: bool,
    for_chats: dict[str, Any],
) -> None:
    """Print what `artifact` says of `text`. `for_chats` are options that it has no use for.

    Raises UsageError where one of those was given.
    """
    from runtimes.task_client import TaskModel

    given = [name for name, value in for_chats.items() if value is not None]
    if given:
        raise UsageError(f"--{given[0]} is for chats, and {artifact.manifest.name} is no chat")
    with TaskModel(artifact, threads) as model:
        found = model.answer(text, max_tokens)
    task = artifact.manifest.task
    if as_json:
        from runtimes.tasks import to_wire

        print_json({"task": task.kind if task else "", **to_wire(found)})
        return
    _print(found)
    if found.cut:
        note = f"only the first {found.prompt_tokens} tokens of the text were read"
        click.echo(f"{styled('note:', fg='yellow')} {note}", err=True)


def _print(found: Result) -> None:
    from runtimes.tasks import Classified, Found, Written

    match found:
        case Classified():
            ranked = sorted(found.probabilities.items(), key=lambda pair: -pair[1])
            rows = [[_plain(label), f"{chance:.1%}"] for label, chance in ranked[:SHOWN_CLASSES]]
            click.echo(table(["class", "probability"], rows))
        case Found(entities=()):
            click.echo("no entity was found")
        case Found():
            rows = [
                [_plain(e.text), _plain(e.label), str(e.start), str(e.end), f"{e.probability:.1%}"]
                for e in found.entities
            ]
            click.echo(table(["entity", "label", "start", "end", "probability"], rows))
        case Written():
            click.echo(_plain(found.text))


def _plain(text: str) -> str:
    """Return `text` without control characters: a terminal would act on them."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
