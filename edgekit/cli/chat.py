"""edgekit chat: the terminal chat."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli.sampling import sampling_options, to_sampling


@click.command(short_help="Chat in the terminal.")
@click.argument("artifact", required=False)
@click.option("--system", help="A system message that starts the conversation.")
@click.option("--context", type=click.IntRange(1), help="Tokens of context; default 4096.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@click.option("--plain", is_flag=True, help="Lines instead of a screen; also when piped.")
@click.option("--echo", is_flag=True, help="Talk to an echo, with no model: to try the screen.")
@sampling_options
def chat(
    artifact: str | None,
    system: str | None,
    context: int | None,
    threads: int | None,
    plain: bool,
    echo: bool,
    **options: Any,
) -> int:
    """Chat with ARTIFACT, or with the newest artifact in the store."""
    from edgekit.workflows.chat import chat as start_chat
    from tui.terminal import can_draw

    return start_chat(
        artifact,
        to_sampling(options),
        system=system,
        context=context,
        threads=threads,
        plain=plain or not can_draw(),
        echo=echo,
    )
