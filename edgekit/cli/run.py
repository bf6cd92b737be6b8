"""edgekit run: one answer, streamed; works in pipes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import json_option, print_json, styled
from edgekit.cli.sampling import sampling_options, to_sampling
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.workflows.answer import Answer

MAX_PROMPT_CHARACTERS = 16 << 20


@click.command(short_help="Answer one prompt.")
@click.argument("artifact")
@click.argument("prompt", required=False)
@click.option("--system", help="A system message before the prompt.")
@click.option("--context", type=click.IntRange(1), help="Tokens of context; default 4096.")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="At most; default: the physical cores."
)
@click.option(
    "--state", type=click.Path(path_type=Path), help="Keep the processed prompt in this file."
)
@sampling_options
@json_option
def run(
    artifact: str,
    prompt: str | None,
    system: str | None,
    context: int | None,
    threads: int | None,
    state: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer PROMPT with ARTIFACT; without PROMPT, or with '-', the prompt is read from stdin.

    With --state, a second question about the same long text begins at once: what both prompts
    share at the beginning is not processed again. The file holds the prompt's content.
    """
    from edgekit.artifact import Artifact
    from edgekit.store import find_artifact
    from edgekit.workflows.answer import answer

    text = _prompt(prompt)
    opened = Artifact.open(find_artifact(artifact))
    if opened.manifest.task is not None:
        from edgekit.cli.understand import understand

        understand(
            opened, text, threads=threads, max_tokens=options["max_tokens"], as_json=as_json,
            for_chats={"system": system, "context": context, "state": state},
        )  # fmt: skip
        return
    write = None if as_json else _write
    sampling = to_sampling(options)
    found = answer(
        opened, text, system, sampling, write, context=context, threads=threads, state=state
    )
    _print(found, as_json)


def _prompt(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise UsageError("there is no prompt", hint='edgekit run ARTIFACT "your question"')
    text = sys.stdin.read(MAX_PROMPT_CHARACTERS + 1)
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UsageError(f"the prompt has more than {MAX_PROMPT_CHARACTERS} characters")
    return text


def _write(text: str) -> None:
    click.echo(text, nl=False)
    sys.stdout.flush()


def _print(found: Answer, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(found))
        return
    click.echo()
    if sys.stderr.isatty():
        speed = f"{found.decode_tokens_per_s:.1f} tokens/s, first after {found.ttft_s:.2f} s"
        click.echo(styled(f"[{found.tokens} tokens, {speed}, {found.finish}]", dim=True), err=True)
