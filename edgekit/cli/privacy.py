"""edgekit privacy: prove the lock, remove or rescue what is stored, change the passphrase."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import facts, json_option, print_json, styled, table
from edgekit.cli.private import weaker_lock_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.privacy.lock import Weaker
    from edgekit.workflows.privacy.proof import Proof, Row
    from edgekit.workflows.privacy.rescue import Saved
    from edgekit.workflows.privacy.stored import Stored

PATH_COLUMNS = 42


@click.group(short_help="Prove privacy mode, list and remove what is stored.")
def privacy() -> None:
    """Prove the lock on this machine, list and remove what is stored, change the passphrase."""


@privacy.command(short_help="Try every way out; exit 6 if one is open.")
@weaker_lock_option
@json_option
def check(weaker_lock: Weaker | None, as_json: bool) -> None:
    """Try every way out of a locked chat and of each engine, against listeners on this machine.

    Nothing is sent to any other machine. Then list what is stored, and what no lock covers.
    """
    from edgekit.cli.progress import Bars
    from edgekit.workflows.privacy.proof import prove

    proof = prove(weaker_lock or "", Bars())
    if as_json:
        print_json(_document(proof))
    else:
        _show(proof)
    proof.enforce()


@privacy.command(short_help="Remove all chats, for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def wipe(yes: bool, as_json: bool) -> None:
    """Remove all chats, personas, drafts and exports from EDGEKIT_HOME, keys first.

    Models, artifacts and settings stay.
    """
    from dataclasses import asdict

    from edgekit.errors import UsageError
    from edgekit.workflows.privacy.wipe import NOT_PROMISED, planned
    from edgekit.workflows.privacy.wipe import wipe as remove

    files = planned()
    if files and not yes:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask on", hint="to remove it all: --yes")
        _list_files(files, err=True)
        click.confirm("Remove all of this for good?", abort=True, err=True)
    done = remove()
    if as_json:
        document = asdict(done) | {"cannot_promise": list(NOT_PROMISED)}
        print_json(document)
        done.enforce()
        return
    count = len(done.removed)
    click.echo(f"{count} file{'' if count == 1 else 's'} removed" if count else "nothing is stored")
    for left in done.left:
        click.echo(f"left: {left.path}: {left.why}")
    _list_sentences("Not certain to be gone:", NOT_PROMISED)
    done.enforce()


@privacy.command(short_help="Change the passphrase of private chats.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Read the old one here.")
@click.option(
    "--new-passphrase-file", type=click.Path(path_type=Path), help="Read the new one here."
)
def passphrase(passphrase_file: Path | None, new_passphrase_file: Path | None) -> None:
    """Change the passphrase of the private chats; everything is encrypted anew.

    Who knew the old passphrase and kept a copy of the file can still read that copy.
    """
    from functools import partial

    from edgekit.cli.passphrase import with_passphrase
    from edgekit.workflows.privacy.passphrase import opened, private_store

    path = private_store()
    _lock_if_wanted(path.parent)
    if passphrase_file is None:
        click.echo("The passphrase as it is now.", err=True)
    with with_passphrase(passphrase_file, partial(opened, path)) as chats:
        if new_passphrase_file is None:
            click.echo("The new passphrase.", err=True)
        with_passphrase(new_passphrase_file, chats.change_passphrase, confirm=True)
    click.echo("the passphrase is changed", err=True)


@privacy.command(short_help="Save what can be read of damaged chats.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Read it here, not typed.")
@click.option(
    "--store",
    "name",
    type=click.Choice(["chats", "private"]),
    help="This store, whatever is wrong with it; default: each that is damaged.",
)
@json_option
def rescue(passphrase_file: Path | None, name: str | None, as_json: bool) -> None:
    """Put what can be read of damaged chats into a new store, in the place of the damaged one.

    The damaged file is kept beside it. Nothing is done to a store that is whole.
    """
    from dataclasses import asdict

    from edgekit.store import chats
    from edgekit.workflows.privacy.rescue import stores

    paths = stores(name)
    _lock_if_wanted(chats())
    done = []
    try:
        for path in paths:
            done.append(_rescued(path, passphrase_file, always=name is not None))
    finally:  # what was saved is said, also if the next store cannot be opened
        if as_json:
            print_json({"stores": [asdict(saved) for saved in done]})
        else:
            for saved in done:
                _tell_saved(saved)


def _rescued(path: Path, passphrase_file: Path | None, *, always: bool) -> Saved:
    from functools import partial

    from edgekit.cli.passphrase import with_passphrase
    from edgekit.workflows.privacy.rescue import needs_passphrase, save

    if not needs_passphrase(path):
        return save(path, None, always=always)
    return with_passphrase(passphrase_file, partial(save, path, always=always))


def _tell_saved(saved: Saved) -> None:
    if not saved.faults:
        click.echo(f"{saved.path} is not damaged")
        return
    for fault in saved.faults:
        click.echo(f"damaged: {fault}", err=True)
    chats = f"{saved.chats} chat{'' if saved.chats == 1 else 's'}"
    messages = f"{saved.messages} message{'' if saved.messages == 1 else 's'}"
    lost = f"{saved.lost or 'no'} record{'' if saved.lost == 1 else 's'}"
    click.echo(f"saved: {chats} with {messages}; {lost} could not be read")
    click.echo(f"the damaged file is kept: {saved.kept}")


def _lock_if_wanted(folder: Path) -> None:
    """Lock this process if privacy mode is on; `folder` may still be written."""
    from edgekit.cli.private import enter_private_mode
    from edgekit.privacy.lock import wanted

    if wanted():
        enter_private_mode([folder])


@privacy.command(short_help="Make privacy mode the default, or not.")
@click.argument("state", type=click.Choice(["on", "off"]))
def default(state: str) -> None:
    """Make privacy mode the default of every command, or not.

    EDGEKIT_PRIVATE and `edgekit chat --private/--no-private` still decide for one run.
    """
    from dataclasses import replace

    from edgekit.settings import load_settings, save_settings

    save_settings(replace(load_settings(), private=state == "on"))
    click.echo(f"privacy mode is {state} by default", err=True)


def _document(proof: Proof) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(proof)


def _show(proof: Proof) -> None:
    processes = list(dict.fromkeys(row.process for row in proof.channels))
    names = list(dict.fromkeys(row.name for row in proof.channels))
    cells = {(row.name, row.process): row for row in proof.channels}
    if names:
        rows = [
            _line(name, [cells.get((name, process)) for process in processes]) for name in names
        ]
        headings = [process.removesuffix(" engine") for process in processes]
        click.echo(table(["way out", "without lock", *headings], rows))
    click.echo("")
    click.echo(facts(_evidence(proof)))
    for fault in proof.faults:
        click.echo(styled(f"open: {fault}", fg="red", bold=True))
    click.echo("")
    _list_files(proof.stored)
    _list_sentences("Not covered:", proof.not_covered)


def _line(name: str, rows: Sequence[Row | None]) -> list[str]:
    """Return a line of the table: what happened without the lock, then in each process."""
    first = next(row for row in rows if row is not None)
    reached = {True: "gets out", False: "not heard", None: "not possible"}[first.control_reached]
    words = ["" if row is None else "refused" if row.refused else "OPEN" for row in rows]
    return [name, reached, *words]


def _evidence(proof: Proof) -> list[tuple[str, str]]:
    lock = proof.lock
    pairs = [("lock", f"{lock['strength'] or 'none'}, Linux {lock['kernel_release']}")]
    for name, shown in lock["processes"].items():
        text = (
            f"Seccomp: {shown['seccomp']}, NoNewPrivs: {shown['no_new_privs']}, "
            f"filters: {shown['seccomp_filters']}, Landlock: {shown['landlock_abi']}"
        )
        pairs.append((name, text + (", own network" if shown["own_network_namespace"] else "")))
    pairs += [("missing", sentence) for sentence in lock.get("missing", ())]
    pairs += [("still open", handle) for handle in lock.get("left_open", ())]
    for name, engine in proof.engines.items():
        detail = f" ({engine['detail']})" if engine["detail"] else ""
        pairs.append((f"{name} model", f"{engine['state']}{detail}"))
    return pairs


def _list_files(files: Sequence[Stored], *, err: bool = False) -> None:
    from edgekit.units import format_bytes

    if not files:
        click.echo("Stored: nothing.", err=err)
        return
    click.echo("Stored:", err=err)
    for file in files:
        mark = "encrypted" if file.encrypted else "readable "
        click.echo(f"  {mark}  {format_bytes(file.bytes):>9}  {file.path}: {file.what}", err=err)


def _list_sentences(heading: str, sentences: Sequence[str]) -> None:
    import textwrap

    click.echo(heading)
    for sentence in sentences:
        click.echo(textwrap.fill(sentence, 79, initial_indent="  - ", subsequent_indent="    "))
