"""The pinned wheels of a target: from a folder of the user's, from the cache, or through pip.

Every wheel is compared with its SHA-256 each time that it is taken, wherever it comes from.
The user's own pip settings decide from where pip fetches.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit import store
from edgekit.errors import GateError, InputError, MissingExtraError
from edgekit.files import file_lock, make_folder, require_space, sha256_file
from edgekit.privacy.lock import refuse_network
from edgekit.progress import Progress
from edgekit.workflows.bundle.lock_files import LockedWheel
from edgekit.workflows.bundle.targets import Target
from edgekit.workflows.sources.base import file_sizes, growing


def fetch(
    wheels: Sequence[LockedWheel], target: Target, wheelhouse: Path | None, progress: Progress
) -> list[Path]:
    """Return the paths of `wheels`, their hashes checked; what is nowhere yet is downloaded.

    Raises InputError, GateError (disk), MissingExtraError (no pip), PrivacyError.
    """
    folder = store.cache() / "wheels"
    waiting = "waiting for another process that downloads wheels"
    with file_lock(folder / ".bundle.lock", lambda: progress.task(waiting, None)):
        missing = [wheel for wheel in wheels if _find(wheel, wheelhouse) is None]
        if missing:
            _download(missing, target, folder, progress)
        return [_found(wheel, wheelhouse) for wheel in wheels]


def pip_arguments(target: Target) -> list[str]:
    """Return the arguments that make pip choose wheels for `target` instead of this machine."""
    abis = (target.python_tag, "abi3", "none")
    return [
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={target.python}"),
        *(f"--abi={abi}" for abi in abis),
        *(f"--platform={tag}" for tag in target.platform_tags),
    ]


def _found(wheel: LockedWheel, wheelhouse: Path | None) -> Path:
    path = _find(wheel, wheelhouse)
    if path is None:
        raise _wrong_content(wheel.filename)
    return path


def _find(wheel: LockedWheel, wheelhouse: Path | None) -> Path | None:
    """Return where the wheel lies with the right content, or None."""
    places = (
        [_cached(wheel)] if wheelhouse is None else [wheelhouse / wheel.filename, _cached(wheel)]
    )
    for path in places:
        if path.is_file() and sha256_file(path) == wheel.sha256:
            return path
    return None


def _cached(wheel: LockedWheel) -> Path:
    return store.cache() / "wheels" / wheel.sha256 / wheel.filename


def _download(
    missing: Sequence[LockedWheel], target: Target, folder: Path, progress: Progress
) -> None:
    """Let pip fetch all that is missing in one go; move each into its place in the cache."""
    refuse_network(f"pip ({len(missing)} wheels)")
    work = folder / ".bundle-work"
    shutil.rmtree(work, ignore_errors=True)
    make_folder(work / "tmp")
    total = sum(wheel.bytes for wheel in missing)
    require_space(work, 2 * total)
    try:
        # pip keeps every wheel in its temporary folder until the last one is there.
        label = f"downloading {len(missing)} wheels"
        with growing(progress, label, total, lambda: sum(file_sizes(work))):
            _run_pip(missing, target, work)
        for wheel in missing:
            fetched = work / "wheels" / wheel.filename
            if not fetched.is_file() or sha256_file(fetched) != wheel.sha256:
                raise _wrong_content(wheel.filename)
            make_folder(_cached(wheel).parent)
            os.replace(fetched, _cached(wheel))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_pip(missing: Sequence[LockedWheel], target: Target, work: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError(
            f"fetching wheels needs pip, and {sys.executable} has none",
            hint=f"{sys.executable} -m ensurepip, or: uv pip install pip",
        )
    requirements = work / "requirements.txt"
    requirements.write_text("\n".join(wheel.requirement for wheel in missing) + "\n")
    command = [
        # -P: a file pip.py in the current folder must not be run.
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"),
        *("--no-input", "--progress-bar=off", "--disable-pip-version-check"),
        *("--requirement", str(requirements), "--dest", str(work / "wheels")),
        *pip_arguments(target),
    ]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command,
        env={**os.environ, "TMPDIR": str(work / "tmp")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise _pip_error(len(missing), done.stdout)


def _pip_error(count: int, output: str) -> InputError | GateError:
    if "No space left on device" in output:
        return GateError(
            f"the disk that holds {store.cache()} is full",
            hint="free some space, and run the same command again",
        )
    if "DO NOT MATCH THE HASHES" in output:
        return _wrong_content("wheel")
    lines = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = lines[-1].removeprefix("ERROR:").strip() if lines else "it gave no reason"
    return InputError(
        f"pip could not fetch the {count} missing wheels: {reason}",
        hint="check the network, and the index that pip uses (pip config list)",
    )


def _wrong_content(what: str) -> InputError:
    return InputError(
        f"the index that pip uses delivers a {what} whose SHA-256 is not the pinned one",
        hint="check the index that pip uses (pip config list)",
    )
