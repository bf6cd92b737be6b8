"""pip as a downloader: what is named with its hash, into a folder, and one sentence if it fails.

The user's own pip settings decide from where. Nothing is installed, and no dependency is followed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit import store
from edgekit.errors import GateError, InputError, MissingExtraError


def pip_download(
    what: str, requirements: Sequence[str], options: Sequence[str], work: Path, out: Path
) -> None:
    """Let pip fetch `requirements`, each with its hash, into the folder `out`.

    `what` names them in an error; `options` go to pip besides. pip's temporary files stay below
    the existing folder `work`, which is the caller's to remove.

    Raises MissingExtraError without pip, InputError, GateError for a full disk.
    """
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError(
            f"fetching {what} needs pip, and {sys.executable} has none",
            hint=f"{sys.executable} -m ensurepip, or: uv pip install pip",
        )
    temporary, listed = work / "tmp", work / "requirements.txt"
    temporary.mkdir(exist_ok=True)
    listed.write_text("\n".join(requirements) + "\n")
    command = [
        # -P: a file pip.py in the current folder must not be run.
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"),
        *("--no-input", "--progress-bar=off", "--disable-pip-version-check"),
        *("--requirement", str(listed), "--dest", str(out), *options),
    ]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise _explained(what, done.stdout)


def wrong_content(what: str) -> InputError:
    """Return the error for a file that came with another content than it was pinned to."""
    return InputError(
        f"the index that pip uses delivers a {what} whose SHA-256 is not the one edgekit knows",
        hint="check the index that pip uses (pip config list)",
    )


def _explained(what: str, output: str) -> InputError | GateError:
    if "No space left on device" in output:
        return GateError(
            f"the disk that holds {store.cache()} is full",
            hint="free some space, and run the same command again",
        )
    if "DO NOT MATCH THE HASHES" in output:
        return wrong_content(what)
    lines = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = lines[0].removeprefix("ERROR:").strip() if lines else "it gave no reason"
    return InputError(
        f"pip could not fetch {what}: {reason}",
        hint="check the network, and the index that pip uses (pip config list)",
    )
