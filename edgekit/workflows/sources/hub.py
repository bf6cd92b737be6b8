"""A model repository on the Hugging Face hub, or on a server that speaks its API.

Files are kept in the cache until the model is whole, so an interrupted download continues. Every
file is checked against the hash that the hub lists; nothing of the repository is run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit import store
from edgekit.artifact import FileEntry
from edgekit.errors import InputError
from edgekit.files import READ_BYTES, disk_errors, file_lock, make_folder, require_space
from edgekit.privacy.lock import refuse_network
from edgekit.progress import Advance, Progress
from edgekit.workflows.sources.base import file_sizes, growing, tool_versions
from edgekit.workflows.sources.hub_client import Hub, Listing, RemoteFile
from edgekit.workflows.sources.record import Origin, Record

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"({_PART})/({_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")


@dataclass(frozen=True, slots=True)
class HubSource:
    """The repository ORG/NAME at a branch, tag or commit; with no revision, where it stands."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, address: str) -> HubSource:
        """Return the source for `ORG/NAME` or `ORG/NAME@REV`. Raises InputError."""
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise InputError(f"'hf:{address}' is not an address", hint="write hf:ORG/NAME[@REV]")
        return cls(f"{match[1]}/{match[2]}", match[3])

    @staticmethod
    def is_address(text: str) -> bool:
        """Return whether `text` could be `ORG/NAME[@REV]`."""
        return _ADDRESS.fullmatch(text) is not None

    @property
    def text(self) -> str:
        """Return `hf:ORG/NAME[@REV]`."""
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def default_name(self) -> str:
        """Return the model's name, and the revision if one was asked for."""
        return self.repository.partition("/")[2] + (f"-{self.revision}" if self.revision else "")

    def is_source_of(self, record: Record, progress: Progress) -> bool:
        """Compare addresses only: a branch that has moved on is not fetched again."""
        return record.origin.source == self.text

    def fill(self, folder: Path, progress: Progress) -> Origin:
        """Download the checkpoint's files into the cache, check them, link them into `folder`.

        Raises PrivacyError in privacy mode.
        """
        refuse_network(self.text)
        hub = Hub(self.repository)
        with self._locked(progress), disk_errors(self._cache):
            listing = hub.list_checkpoint(self.revision)
            cache = self._download(hub, listing, progress)
            entries = _check(listing, cache, progress)
            for entry in entries:
                _link(cache / entry.path, folder / entry.path)
        tools = tool_versions("huggingface_hub")
        return Origin(self.text, listing.commit, listing.licence, entries, tools)

    def clean(self) -> None:
        """Remove the files from the cache."""
        with file_lock(self._lock):
            shutil.rmtree(self._cache, ignore_errors=True)

    @property
    def _cache(self) -> Path:
        return store.cache() / "hub" / self.repository.replace("/", "--")

    @property
    def _lock(self) -> Path:
        return self._cache.with_name(self._cache.name + ".lock")

    @contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        waiting = f"waiting for another process that downloads {self.repository}"
        with file_lock(self._lock, lambda: progress.task(waiting, None)):
            yield

    def _download(self, hub: Hub, listing: Listing, progress: Progress) -> Path:
        """Fetch what the cache lacks of `listing`; return the folder that then holds it all."""
        folder = self._cache / listing.commit
        make_folder(folder)
        require_space(folder, listing.bytes - sum(file_sizes(folder)))
        label = f"downloading {self.repository}"
        with growing(progress, label, listing.bytes, lambda: sum(file_sizes(folder))):
            for file in listing.files:
                hub.download(file, listing.commit, folder)
        return folder


def _check(listing: Listing, folder: Path, progress: Progress) -> list[FileEntry]:
    """Compare every downloaded file with the listing; remove the one that differs."""
    with progress.task("verifying", listing.bytes) as advance:
        return [_checked_entry(folder / file.name, file, advance) for file in listing.files]


def _checked_entry(path: Path, expected: RemoteFile, advance: Advance) -> FileEntry:
    """Hash a file once for the record (SHA-256) and, where the hub lists that, as a git blob.

    A blob's name in git is the SHA-1 of "blob", its size, a zero byte, and the content.
    """
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            sha256.update(piece)
            if not expected.is_sha256:
                blob.update(piece)
            advance(len(piece))
    found = sha256 if expected.is_sha256 else blob
    if found.hexdigest() != expected.checksum:
        path.unlink()
        raise InputError(
            f"{expected.name} does not match the hash that the hub lists for it",
            hint="run the same command again: this file is then fetched anew",
        )
    return FileEntry(expected.name, size, sha256.hexdigest())


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
