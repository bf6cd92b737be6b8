"""edgekit chat: the terminal chat."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.private import weaker_lock_option
from edgekit.cli.sampling import chat_sampling_options, to_sampling

if TYPE_CHECKING:
    from edgekit.privacy.lock import LockReport, Weaker
    from tui.store.chats import ChatStore

FIRST_TIME = (
    "This is your first private chat. The passphrase that you choose now encrypts all of them.\n"
    "Nothing can reset it: without it they are lost. Several random words are best."
)

passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Read the passphrase from here, also /dev/fd/3; default: ask.",
)


@click.command(short_help="Chat in the terminal.")
@click.argument("artifact", required=False)
@click.option("--private/--no-private", default=None, help="Locked, and encrypted on the disk.")
@passphrase_option
@weaker_lock_option
@click.option("--temporary", is_flag=True, help="Store nothing; gone when you quit.")
@click.option("--continue", "resume", is_flag=True, help="Go on with the last chat.")
@click.option("--system", default="", help="A system prompt for new chats.")
@click.option("--context", type=click.IntRange(1), help="Tokens of context; default 4096.")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="At most; default: the physical cores."
)
@click.option(
    "--bandwidth",
    type=click.Choice(["auto", "low", "full"]),
    help="Bytes sent to the terminal; auto is low over SSH.",
)
@click.option("--plain", is_flag=True, help="Lines instead of a screen; also when piped.")
@click.option("--echo", is_flag=True, help="Talk to an echo, with no model: to try the screen.")
@chat_sampling_options
def chat(
    artifact: str | None,
    private: bool | None,
    passphrase_file: Path | None,
    weaker_lock: Weaker | None,
    **options: Any,
) -> int:
    """Chat with ARTIFACT, or with the newest artifact in the store.

    A private chat cannot reach any network: the kernel refuses it. Its text is stored encrypted;
    `edgekit privacy check` proves both.
    """
    lock = _lock(private, weaker_lock)
    from edgekit.workflows.chat import Wish
    from edgekit.workflows.chat import chat as start_chat
    from tui.terminal import can_draw

    names = ("system", "context", "threads", "echo", "temporary", "resume", "bandwidth")
    chosen = {name: options.pop(name) for name in names}
    plain = options.pop("plain") or not can_draw()
    unlock = partial(_unlock, passphrase_file)
    wish = Wish(to_sampling(options), plain=plain, lock=lock, unlock=unlock, **chosen)
    return start_chat(artifact, wish)


def _lock(private: bool | None, weaker: Weaker | None) -> LockReport | None:
    """Lock this process if the chat is private, before anything else is imported."""
    from edgekit.privacy.lock import wanted

    if private is None:
        private = wanted()
    os.environ["EDGEKIT_PRIVATE"] = "1" if private else "0"  # what the worker goes by
    if not private:
        return None
    from edgekit.cli.private import enter_private_mode
    from edgekit.store import home

    return enter_private_mode([home()], weaker)


def _unlock(file: Path | None, path: Path, open_with: Callable[[str], ChatStore]) -> ChatStore:
    """Return the private store at `path`, opened; a new passphrase is asked for twice."""
    from edgekit.cli.passphrase import with_passphrase

    is_new = not path.exists() or path.stat().st_size == 0  # the latter: killed while it was made
    if is_new and file is None:
        click.echo(FIRST_TIME, err=True)
    return with_passphrase(file, open_with, confirm=is_new)
