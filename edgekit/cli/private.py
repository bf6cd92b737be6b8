"""Privacy mode on the command line: which command is locked how, before its imports.

Knows what a command may write; how a process is locked is the business of edgekit.privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.errors import PrivacyError

if TYPE_CHECKING:
    from edgekit.privacy.lock import LockReport, Weaker

Body = TypeVar("Body", bound=Callable[..., Any])

# Commands that see no user text, and those that lock themselves at the right moment.
_NOT_LOCKED_HERE = ("chat", "devices", "doctor", "privacy")


def weaker_lock_option(body: Body) -> Body:
    """Give a command the option `--weaker-lock`, passed as `weaker_lock`."""
    option = click.option(
        "--weaker-lock",
        type=click.Choice(["namespace", "python"]),
        help="Accept a weaker lock where the kernel cannot do better.",
    )
    return option(body)


def lock_if_wanted(command: str | None) -> None:
    """Lock this process before `command` imports anything, if the user wants privacy mode.

    Raises PrivacyError, UsageError and InputError as edgekit.privacy.lock does.
    """
    if command is None or command in _NOT_LOCKED_HERE:
        return
    from edgekit.privacy.lock import lock, wanted

    if not wanted():
        return
    if command == "run":
        from edgekit.store import home

        enter_private_mode([home()])
    else:
        lock(writable=None)


def enter_private_mode(writable: Sequence[Path] | None, weaker: Weaker | None = None) -> LockReport:
    """Lock this process for good and return what holds it; see edgekit.privacy.lock.lock.

    `writable` are the only folders that it may still write; they are made if they are missing.
    """
    from edgekit.files import make_folder
    from edgekit.privacy.lock import lock

    for folder in writable or ():
        make_folder(folder)
    return lock(writable=writable, weaker=weaker)


def refuse_in_private_mode(command: click.Command, option: str, why: str) -> None:
    """Let `command` refuse `option` with PrivacyError when privacy mode is on; `why` says so."""
    parameter = next(found for found in command.params if found.name == option)

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        from edgekit.privacy.lock import current

        if value is not None and current() is not None:
            raise PrivacyError(f"privacy mode is on: {why}", hint=f"leave out {parameter.opts[0]}")
        return value

    parameter.callback = check
