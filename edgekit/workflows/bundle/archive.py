"""A bundle as one tar file, for carrying: the same bundle gives the same bytes."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from edgekit.files import disk_errors, fsync_folder, require_space
from edgekit.progress import Advance, Progress


def write_tar(folder: Path, tar: Path, progress: Progress) -> None:
    """Write `folder`, under its own name, to the file `tar`; replaces it only when complete.

    Not compressed: wheels are, and weights do not shrink. Raises GateError, InputError.
    """
    paths = sorted(folder.rglob("*"))
    total = sum(path.stat().st_size for path in paths if path.is_file())
    require_space(tar.parent, total)
    partial = tar.parent / f".{tar.name}.partial"
    try:
        with disk_errors(tar.parent), progress.task(f"writing {tar.name}", total) as advance:
            with partial.open("wb") as stream:
                with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                    for path in [folder, *paths]:
                        _add(archive, path, folder, advance)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, tar)
            fsync_folder(tar.parent)
    finally:
        partial.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, path: Path, folder: Path, advance: Advance) -> None:
    """Add one file or folder without a trace of when and by whom it was made."""
    item = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
    if path.is_dir():
        item.type, item.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(item)
        return
    item.size, item.mode = path.stat().st_size, 0o644
    with path.open("rb") as stream:
        archive.addfile(item, stream)
    advance(item.size)
