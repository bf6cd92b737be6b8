"""huggingface_hub as edgekit uses it: list a repository, fetch a file, explain what went wrong.

Plain, resumable HTTP only. The endpoint and the token are those of the library's own variables
(HF_ENDPOINT, HF_TOKEN) and its login; the token is never shown or stored.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.workflows.sources.base import file_sizes
from edgekit.workflows.sources.layout import pick_files

# Attempts in a row that bring no new byte; one that brings some starts the count again.
MAX_IDLE_ATTEMPTS = 4
TIMEOUT_SECONDS = 20
# What a broken connection loses at most; the library's own 10 MB also make a bar stand still.
CHUNK_BYTES = 256 << 10
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it; `checksum` is its SHA-256 or its name as a git blob, in hex."""

    name: str
    bytes: int
    checksum: str

    @property
    def is_sha256(self) -> bool:
        """Return whether the checksum is a SHA-256, as for all files kept in LFS."""
        return len(self.checksum) == 64


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a checkpoint at one commit."""

    commit: str
    licence: str | None
    files: list[RemoteFile]

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.bytes for file in self.files)


class Hub:
    """A connection to one repository. Raises MissingExtraError without huggingface_hub."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self._library = _quiet_library()
        default = need("huggingface_hub.constants", "convert").ENDPOINT
        self._endpoint = (os.environ.get("HF_ENDPOINT") or default).rstrip("/")

    def list_checkpoint(self, revision: str | None) -> Listing:
        """Resolve `revision` to a commit, and pick the files that make a checkpoint.

        Raises InputError, also for a repository without safetensors weights.
        """
        with self._explained(revision), self._well_formed():
            api = self._library.HfApi(endpoint=self._endpoint, library_name="edgekit")
            info = api.model_info(
                self.repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
            commit = _matching(_COMMIT, info.sha)
            listed = {sibling.rfilename: sibling for sibling in info.siblings}
            names = pick_files(listed, f"the repository {self.repository}")
            files = [self._remote_file(listed[name], commit) for name in names]
            return Listing(commit, _licence(info.tags), files)

    def download(self, file: RemoteFile, commit: str, folder: Path) -> None:
        """Fetch `file` into `folder`, continuing what is there. Raises InputError, OSError."""
        from requests import HTTPError, RequestException

        _drop_overlong_part(folder, file)
        idle_attempts = 0
        with self._explained(commit):
            while True:
                before = sum(file_sizes(folder))
                try:
                    return self._download_once(file, commit, folder)
                except HTTPError:
                    raise
                except RequestException:
                    grown = sum(file_sizes(folder)) > before
                    idle_attempts = 0 if grown else idle_attempts + 1
                    if idle_attempts == MAX_IDLE_ATTEMPTS:
                        raise
                    time.sleep(idle_attempts)

    def _download_once(self, file: RemoteFile, commit: str, folder: Path) -> None:
        self._library.hf_hub_download(
            self.repository,
            file.name,
            revision=commit,
            local_dir=folder,
            endpoint=self._endpoint,
            etag_timeout=TIMEOUT_SECONDS,
            library_name="edgekit",
        )

    def _remote_file(self, sibling: Any, commit: str) -> RemoteFile:
        if sibling.lfs is not None:
            return _remote_file(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
        if sibling.blob_id is not None:
            return _remote_file(sibling.rfilename, sibling.size, sibling.blob_id)
        # Some mirrors list names only; the headers of the file then carry the same facts.
        url = self._library.hf_hub_url(
            self.repository, sibling.rfilename, revision=commit, endpoint=self._endpoint
        )
        found = self._library.get_hf_file_metadata(
            url, timeout=TIMEOUT_SECONDS, endpoint=self._endpoint
        )
        return _remote_file(sibling.rfilename, found.size, found.etag)

    @contextmanager
    def _explained(self, revision: str | None) -> Iterator[None]:
        """Turn what the library raises into one sentence about this repository."""
        from requests import RequestException

        errors = need("huggingface_hub.errors", "convert")
        try:
            yield
        except errors.OfflineModeIsEnabled as error:
            raise InputError(
                f"{self.repository} cannot be fetched: the hub is switched off",
                hint="unset HF_HUB_OFFLINE",
            ) from error
        except errors.LocalEntryNotFoundError as error:
            raise self._unreachable() from error
        except errors.HfHubHTTPError as error:
            raise self._refused(error, errors, revision) from error
        except errors.HFValidationError as error:
            raise InputError(f"'{self.repository}' cannot be a repository's name") from error
        except RequestException as error:
            raise self._unreachable() from error
        except OSError as error:
            if error.errno is not None:
                raise
            # The library's own complaint, about a file that ended early for example.
            raise self._unreachable() from error

    @contextmanager
    def _well_formed(self) -> Iterator[None]:
        """Blame the server for an answer that lacks what every hub's answer has."""
        errors = need("huggingface_hub.errors", "convert")
        try:
            yield
        except (errors.FileMetadataError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._host} does not answer as a model hub does", hint="check HF_ENDPOINT"
            ) from error

    def _refused(self, error: Any, errors: Any, revision: str | None) -> InputError:
        """Say what an HTTP status means. GatedRepoError is a kind of RepositoryNotFoundError."""
        if isinstance(error, errors.GatedRepoError):
            return InputError(
                f"{self.repository} wants its terms accepted first",
                hint="accept them on the model's page, then set HF_TOKEN or run: hf auth login",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return InputError(
                f"{self._host} has no model {self.repository}, or it is private",
                hint="check the name; for a private model set HF_TOKEN or run: hf auth login",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return InputError(
                f"{self.repository} has no revision '{revision}'",
                hint="give a branch, a tag or a commit after the @, or leave it out",
            )
        status = error.response.status_code
        return InputError(
            f"{self._host} answered {status} when asked for {self.repository}",
            hint="what has arrived is kept: run the same command again later",
        )

    def _unreachable(self) -> InputError:
        return InputError(
            f"{self._host} cannot be reached, or the connection broke off",
            hint="check the network; what has arrived is kept, and the same command continues",
        )

    @property
    def _host(self) -> str:
        return urlsplit(self._endpoint).hostname or "the hub"


def _quiet_library() -> Any:
    """Import huggingface_hub and set it to plain HTTP, without bars, chatter and statistics.

    The settings are attributes, not environment variables: those are read only once, and the
    library may have been imported before.
    """
    library = need("huggingface_hub", "convert")
    constants: Any = need("huggingface_hub.constants", "convert")
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_ENABLE_HF_TRANSFER = False
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        need("huggingface_hub.utils", "convert").disable_progress_bars()
    need("huggingface_hub.utils.logging", "convert").set_verbosity_error()
    return library


def _remote_file(name: str, size: Any, checksum: Any) -> RemoteFile:
    if type(size) is not int or size < 0:
        raise TypeError(f"{name} has no size")
    return RemoteFile(name, size, _matching(_CHECKSUM, checksum))


def _matching(pattern: re.Pattern[str], text: Any) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise TypeError(f"{text!r:.80} does not match {pattern.pattern}")
    return text


def _licence(tags: Any) -> str | None:
    found = [tag for tag in tags or [] if isinstance(tag, str) and tag.startswith("license:")]
    return found[0].removeprefix("license:") if found else None


def _drop_overlong_part(folder: Path, file: RemoteFile) -> None:
    """Remove a partial download that is longer than the file: no range request can mend it.

    huggingface_hub names it after the checksum (`_local_folder.py`, `incomplete_path`).
    """
    for part in folder.rglob(f"*.{file.checksum}.incomplete"):
        if part.stat().st_size > file.bytes:
            part.unlink()
