"""edgekit evaluate: how well a checkpoint or an artifact answers the chats of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import facts, json_option, print_json

if TYPE_CHECKING:
    from edgekit.workflows.evaluate import Evaluated

SHOWN = 5


@click.command(short_help="Ask a model the chats of a file.")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--answers", type=click.IntRange(1), default=100, show_default=True, help="At most.")
@click.option(
    "--tokens", type=click.IntRange(1, 65536), default=128, show_default=True, help="Of an answer."
)
@json_option
def evaluate(model: str, file: Path, answers: int, tokens: int, as_json: bool) -> None:
    """Ask MODEL, a checkpoint or an artifact, the last question of each chat in the JSONL FILE.

    It answers greedily: a checkpoint in torch, an artifact in its own engine. Its words are
    compared with those in the file. For a checkpoint, the perplexity of these is measured too.
    """
    from edgekit.cli.progress import Bars
    from edgekit.workflows.evaluate import Wanted
    from edgekit.workflows.evaluate import evaluate as run_evaluation

    found = run_evaluation(model, file, Wanted(answers, tokens), Bars())
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Evaluated) -> None:
    from edgekit.train.answer_figures import NAMES
    from edgekit.train.answers import pick

    rows = [(found.kind, str(found.path)), ("chats", f"{found.records}")]
    if found.loss is not None:
        rows.append(("loss, nats a token", f"{found.loss:.4f} over {found.targets} tokens"))
        rows.append(("perplexity", f"{found.perplexity:.3f}"))
    rows.append(("answers", f"{len(found.answered)}, in {found.seconds:.1f} s"))
    rows += [(name, f"{found.figures[key]:.1f}") for key, name in NAMES.items()]
    click.echo(facts(rows))
    for number in pick(len(found.answered), SHOWN):
        answered = found.answered[number]
        click.echo("\n" + facts([
            ("question", _line(answered.question.asked)),
            ("wanted", _line(answered.question.reference)),
            ("answer", _line(answered.answer)),
        ]))  # fmt: skip


def _line(text: str, most: int = 300) -> str:
    """Return `text` as one short line, without what could move a terminal's cursor."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= most else words[: most - 3] + "..."
