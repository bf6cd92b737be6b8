"""Runs an installer command in a fork that kills itself at its n-th change of the file system.

The changes are seen by Python's own audit events (open for writing, mkdir, rename, symlink,
link, unlink, rmdir, chmod), which no code can go around, and by os.write and os.fsync, which
have no event. A write is cut in half before the kill.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.installer import cli

CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.symlink",
    "os.link",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
}
NEVER = 10**9


def run_command(
    arguments: Sequence[str], kill_at: int = NEVER, prepare: Callable[[], None] | None = None
) -> int:
    """Run one command in a fork; return its exit code, or -9 if it was killed at `kill_at`."""
    child = os.fork()
    if child == 0:
        _child(arguments, kill_at, prepare, None)
    return _wait(child)


def count_changes(
    arguments: Sequence[str], log: Path, prepare: Callable[[], None] | None = None
) -> list[str]:
    """Run one command in a fork to its end; return the names of all its changes."""
    child = os.fork()
    if child == 0:
        _child(arguments, NEVER, prepare, log)
    assert _wait(child) == 0, "the command should end well when nobody kills it"
    return log.read_text().split()


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(
    arguments: Sequence[str], kill_at: int, prepare: Callable[[], None] | None, log: Path | None
) -> None:
    code = 99
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        if prepare is not None:
            prepare()
        seen = _count(kill_at)
        code = cli.main(arguments)
        if log is not None:
            names = "\n".join(seen)
            kill_at = NEVER
            log.write_text(names)
    finally:
        os._exit(code)


def _count(kill_at: int) -> list[str]:
    """From now on count the changes of this process, and die at the one with number `kill_at`."""
    seen: list[str] = []

    def change(name: str) -> bool:
        seen.append(name)
        return len(seen) == kill_at

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if (event in CHANGES or (writes and arguments[0] != os.devnull)) and change(event):
            os.kill(os.getpid(), signal.SIGKILL)

    real_write, real_fsync = os.write, os.fsync

    def write(handle: int, data: Any) -> int:
        if change("write"):
            real_write(handle, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real_write(handle, data)

    def fsync(handle: int) -> None:
        if change("fsync"):
            os.kill(os.getpid(), signal.SIGKILL)
        real_fsync(handle)

    os.write, os.fsync = write, fsync  # type: ignore[assignment]
    sys.addaudithook(audit)
    return seen
