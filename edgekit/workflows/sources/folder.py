"""A checkpoint folder on this machine: the trainer's output, or a snapshot of the hub's cache."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError
from edgekit.files import require_space, sha256_file
from edgekit.progress import Progress
from edgekit.workflows.sources.base import copy_hashed, tool_versions
from edgekit.workflows.sources.layout import pick_files
from edgekit.workflows.sources.record import Origin, Record


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The folder `path`, absolute, in the Hugging Face layout. It is only read."""

    path: Path

    @property
    def text(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def default_name(self) -> str:
        """Return the folder's own name."""
        return self.path.name

    def is_source_of(self, record: Record, progress: Progress) -> bool:
        """Compare names and sizes, then hashes, with what was copied at the time."""
        pulled = {entry.path: entry for entry in record.origin.upstream}
        files = self._files()
        sizes = {name: file.stat().st_size for name, file in files.items()}
        if sizes != {name: entry.bytes for name, entry in pulled.items()}:
            return False
        with progress.task(f"comparing {self.path.name}", sum(sizes.values())) as advance:
            return all(
                sha256_file(file, advance) == pulled[name].sha256 for name, file in files.items()
            )

    def fill(self, folder: Path, progress: Progress) -> Origin:
        """Copy the files of the checkpoint, after a look at the headers of its weights."""
        from edgekit.safetensors_header import read_header

        files = self._files()
        for name, file in files.items():
            if name.endswith(".safetensors"):
                list(read_header(file))
        total = sum(file.stat().st_size for file in files.values())
        require_space(folder, total)
        with progress.task(f"copying {self.path.name}", total) as advance:
            entries = []
            for name, file in files.items():
                with file.open("rb") as stream:
                    entries.append(copy_hashed(stream, folder / name, advance))
        return Origin(self.text, None, None, entries, tool_versions())

    def clean(self) -> None:
        """Do nothing: a copy leaves nothing behind."""

    def _files(self) -> dict[str, Path]:
        try:
            names = pick_files(os.listdir(self.path), str(self.path))
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
        return {name: self._real_file(name) for name in names}

    def _real_file(self, name: str) -> Path:
        """Return the regular file behind `name`, which a link must not lead out of the folder.

        The hub's cache is the exception: its snapshots are links to `../../blobs`.
        """
        link = self.path / name
        try:
            file = link.resolve(strict=True)
            mode = file.stat().st_mode
        except (OSError, RuntimeError) as error:
            raise InputError(f"{link} leads nowhere") from error
        if not any(file.is_relative_to(root) for root in self._allowed_roots()):
            raise InputError(
                f"{link} leads out of the folder, to {file}",
                hint="put a copy of that file into the folder",
            )
        if not stat.S_ISREG(mode):
            raise InputError(f"{link} is not a regular file")
        if not os.access(file, os.R_OK):
            raise InputError(f"{link} cannot be read: permission denied")
        return file

    def _allowed_roots(self) -> list[Path]:
        folder = self.path.resolve()
        if folder.parent.name == "snapshots":
            return [folder, folder.parent.parent / "blobs"]
        return [folder]
