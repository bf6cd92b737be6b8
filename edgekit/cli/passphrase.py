"""Read a passphrase: from the terminal without echo, or from a file. Never argv or environment.

A command line is visible to every process of the machine, and an environment to every child.
"""

from __future__ import annotations

import getpass
import os
import sys
import warnings
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path
from typing import TypeVar

import click

from edgekit.errors import InputError, PrivacyError

LONGEST_BYTES = 4096
TRIES = 3

Opened = TypeVar("Opened")


class MistypedError(PrivacyError):
    """The same words were not typed twice. Whoever typed them may try again."""


def with_passphrase(
    file: Path | None, use: Callable[[str], Opened], *, confirm: bool = False
) -> Opened:
    """Return what `use` makes of the passphrase; on a terminal, three may be tried.

    `use` raises tui.store.vault.WrongPassphraseError for a wrong one; what else it raises, and
    what `read_passphrase` raises, is raised at once.
    """
    from tui.store.vault import WrongPassphraseError

    tries_left = TRIES if file is None else 1
    while True:
        try:
            return use(read_passphrase(file, confirm=confirm))
        except (WrongPassphraseError, MistypedError) as error:
            tries_left -= 1
            if tries_left == 0:
                raise
            click.echo(f"{error.message}: try again", err=True)


def read_passphrase(file: Path | None, *, confirm: bool) -> str:
    """Return the passphrase: the first line of `file`, or what is typed, twice with `confirm`.

    `file` may be a pipe such as /dev/fd/3. Raises PrivacyError for an empty passphrase, two that
    differ, or no terminal to ask on; InputError for a file that cannot be read.
    """
    passphrase = _from_terminal(confirm) if file is None else _from_file(file)
    if not passphrase:
        raise PrivacyError("the passphrase is empty", hint="choose one of several words")
    return passphrase


def _from_file(file: Path) -> str:
    try:
        with file.open("rb", buffering=0) as stream:
            return _first_line(file, stream).decode("utf-8")
    except OSError as error:
        raise InputError(
            f"the passphrase file {file} cannot be read: {error.strerror}",
            hint="give a file whose first line is the passphrase",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"the passphrase file {file} is not UTF-8 text",
            hint="write the passphrase on its first line as text",
        ) from error


def _first_line(file: Path, stream: RawIOBase) -> bytes:
    """Return the first line; read no more than that can take: the file may have no end."""
    data = b""
    while b"\n" not in data and len(data) <= LONGEST_BYTES + 1:
        piece = stream.read(LONGEST_BYTES)  # a pipe gives what is there
        if not piece:
            break
        data += piece
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    if len(line) > LONGEST_BYTES:
        raise InputError(
            f"the first line of the passphrase file {file} is longer than {LONGEST_BYTES} bytes",
            hint="give a file whose first line is the passphrase",
        )
    return line


def _from_terminal(confirm: bool) -> str:
    if not _has_terminal():  # getpass would read standard input instead, and show it
        raise PrivacyError(
            "a passphrase is needed, and there is no terminal to ask on",
            hint="run it in a terminal, or give --passphrase-file FILE (/dev/fd/3 works)",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            first = getpass.getpass("Passphrase: ")
            if confirm and first and getpass.getpass("Again: ") != first:
                raise MistypedError("the two passphrases differ", hint="try again")
    except (EOFError, UnicodeDecodeError):
        raise PrivacyError("no passphrase was typed", hint="try again") from None
    except getpass.GetPassWarning:
        raise PrivacyError(
            "this terminal would show the passphrase while it is typed",
            hint="use another terminal, or give --passphrase-file FILE",
        ) from None
    return first


def _has_terminal() -> bool:
    """Return whether there is someone to ask, also when standard input is a pipe."""
    if sys.stdin is not None and sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
