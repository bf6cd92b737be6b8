"""The new version proves itself where it stands: bytecode, then an answer from each artifact.

An installed file that is right can still not run here (a missing library, a processor that is
too old), and no installer notices that. So the version's own Python is asked, before the switch.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from .contents import ARTIFACTS, INTERPRETER_LINK, site_packages
from .disk import write_new
from .errors import LimitError
from .manifest import Manifest

FIRST_START = "runtimes.first_start"
CHOICE_PATH = "share/edgekit/engine.json"
# Python reads this file at every start, also with -I. It stops programs from adding bytecode to
# a version whose list of files is closed.
SEAL_NAME = "edgekit-sealed.pth"
SEAL = b"import sys; sys.dont_write_bytecode = True\n"
_LAST_LINES = 3


def compile_bytecode(version: Path, python: str, lock: int) -> None:
    """Compile every module, so that each start is fast also where nobody may write.

    The bytecode is tied to nothing but its folder ("unchecked-hash"): a version never changes.
    A file that does not compile (a template, a test of a newer Python) is left as it is.
    """
    options = ["-q", "-q", "--invalidation-mode", "unchecked-hash"]
    folder = version / site_packages(python)
    _run(version, ["-m", "compileall", *options, str(folder)], lock, None)


def first_start(version: Path, manifest: Manifest, lock: int, timeout_s: float) -> dict[str, Any]:
    """Run the version's own first start; return what it printed as JSON.

    Raises LimitError, with the last lines of its stderr, if it fails or takes too long.
    """
    folder = version / ARTIFACTS
    folder.mkdir(parents=True, exist_ok=True)
    # The choice of the fastest way belongs to the installation, not to whoever installs it.
    state = ["--state", str(version / CHOICE_PATH)]
    command = ["-B", "-m", FIRST_START, "--artifacts", str(folder), *state, "--json"]
    try:
        done = _run(version, command, lock, timeout_s)
    except subprocess.TimeoutExpired as error:
        raise LimitError(
            f"the new version gave no answer in {timeout_s:g} s, so it is not switched in",
            hint="try again when the machine is idle, or allow more with --first-start-timeout",
        ) from error
    except OSError as error:
        raise LimitError(
            f"the new version's Python cannot be started: {error.strerror}",
            hint="a disk mounted with noexec? choose another folder with --prefix",
        ) from error
    if done.returncode:
        raise LimitError(
            f"the new version of {manifest.name} does not work here, so it is not switched in: "
            f"{_ending(done.returncode)}{_last_words(done.stderr)}",
            hint="the version before is untouched; make a bundle for this device",
        )
    return _report(done.stdout)


def seal(version: Path, python: str) -> None:
    """Close the version: from now on its programs write no bytecode into it."""
    write_new(version / site_packages(python) / SEAL_NAME, [SEAL])


def _run(
    version: Path, arguments: list[str], lock: int, timeout_s: float | None
) -> subprocess.CompletedProcess[bytes]:
    """Run the version's Python. It inherits the lock: see disk.locked."""
    return subprocess.run(  # noqa: S603 - the version's own interpreter
        [str(version / INTERPRETER_LINK), "-I", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
        pass_fds=(lock,),
        timeout=timeout_s,
        check=False,
    )


def _report(stdout: bytes) -> dict[str, Any]:
    try:
        values = json.loads(stdout)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _last_words(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines()]
    text = " | ".join([line for line in lines if line][-_LAST_LINES:])
    return f"; it last said: {''.join(c for c in text if c.isprintable())[:500]}" if text else ""
