"""Runs inside the virtual machine, on its data disk: installs without end, or judges what is left.

    guest.py install     upgrade from bundle to bundle until the power fails
    guest.py careless    the same with an fsync that does nothing: the control
    guest.py judge       say what is wrong with the installation

Standard library only. What it says goes to the console, behind the word GUEST.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from itertools import cycle
from pathlib import Path

HERE = Path("/mnt")
PREFIX = HERE / "prefix"


def say(*words: object) -> None:
    """Write one line to the console at once."""
    print("GUEST", *words, flush=True)


def install_for_ever(*, careless: bool = False) -> None:
    """Install the bundles in turn; each is an upgrade of the one before."""
    sys.dont_write_bytecode = True  # a bundle with a file too many is refused
    sys.path.insert(0, str(HERE / "bundles" / "a"))
    from installer import disk
    from installer.cli import main

    if careless:
        os.fsync = os.fdatasync = lambda handle: None  # type: ignore[assignment]
        disk._syncfs = lambda folder: True

    for number, name in enumerate(cycle(("a", "b", "c"))):
        say("begin", number, name)
        errors = io.StringIO()
        command = ["upgrade", str(HERE / "bundles" / name)]
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = main([*command, "--prefix", str(PREFIX), "--no-compile", "--json"])
        say("end", number, name, status, errors.getvalue()[-300:].replace("\n", " | "))


def judge() -> None:
    """Say each fault, then the links; "judged" last, so that a broken judge is noticed."""
    from installation import faults

    for fault in faults(PREFIX):
        say("fault", fault)
    for link in ("current", "previous"):
        say("link", link, (PREFIX / link).is_symlink())
    say("judged")


if __name__ == "__main__":
    match sys.argv[1]:
        case "judge":
            judge()
        case "install":
            install_for_ever()
        case "careless":
            install_for_ever(careless=True)
