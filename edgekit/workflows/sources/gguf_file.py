"""A GGUF file on this machine, imported to a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.artifact import FileEntry
from edgekit.errors import InputError
from edgekit.files import sha256_file
from edgekit.progress import Progress
from edgekit.workflows.sources.base import tool_versions
from edgekit.workflows.sources.record import Origin, Record


@dataclass(frozen=True, slots=True)
class GgufSource:
    """The GGUF file `path`, absolute. It is only read."""

    path: Path

    @property
    def text(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def default_name(self) -> str:
        """Return the file's name without `.gguf`."""
        return self.path.stem

    def is_source_of(self, record: Record, progress: Progress) -> bool:
        """Compare size, then hash, with the file that was imported at the time."""
        pulled = [(entry.bytes, entry.sha256) for entry in record.origin.upstream]
        if [size for size, _ in pulled] != [self.path.stat().st_size]:
            return False
        return self._entry(progress).sha256 == pulled[0][1]

    def fill(self, folder: Path, progress: Progress) -> Origin:
        """Dequantise the weights and rebuild the tokenizer."""
        from converters.import_gguf import import_gguf

        import_gguf(self.path, folder, progress=progress)
        return Origin(self.text, None, None, [self._entry(progress)], tool_versions("gguf"))

    def clean(self) -> None:
        """Do nothing: the file is not ours."""

    def _entry(self, progress: Progress) -> FileEntry:
        try:
            size = self.path.stat().st_size
            with progress.task(f"reading {self.path.name}", size) as advance:
                return FileEntry(self.path.name, size, sha256_file(self.path, advance))
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
