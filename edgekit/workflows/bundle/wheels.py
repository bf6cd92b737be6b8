"""The pinned wheels of a target: from a folder of the user's, from the cache, or through pip.

Every wheel is compared with its SHA-256 each time that it is taken, wherever it comes from.
The user's own pip settings decide from where pip fetches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgekit import store
from edgekit.files import file_lock, make_folder, require_space, sha256_file
from edgekit.privacy.lock import refuse_network
from edgekit.progress import Progress
from edgekit.workflows.bundle.lock_files import LockedWheel
from edgekit.workflows.bundle.targets import Target
from edgekit.workflows.sources.base import file_sizes, growing
from edgekit.workflows.sources.pip_download import pip_download, wrong_content


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
        raise wrong_content(wheel.filename)
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
    make_folder(work)
    total = sum(wheel.bytes for wheel in missing)
    require_space(work, 2 * total)
    try:
        # pip keeps every wheel in its temporary folder until the last one is there.
        label = f"downloading {len(missing)} wheels"
        with growing(progress, label, total, lambda: sum(file_sizes(work))):
            pinned = [wheel.requirement for wheel in missing]
            what = f"the {len(missing)} missing wheels"
            pip_download(what, pinned, pip_arguments(target), work, work / "wheels")
        for wheel in missing:
            fetched = work / "wheels" / wheel.filename
            if not fetched.is_file() or sha256_file(fetched) != wheel.sha256:
                raise wrong_content(wheel.filename)
            make_folder(_cached(wheel).parent)
            os.replace(fetched, _cached(wheel))
    finally:
        shutil.rmtree(work, ignore_errors=True)
