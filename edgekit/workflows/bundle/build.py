"""Build a bundle: check that it can be, gather the wheels, put all in one folder, sign it.

Nothing is left where the folder should be unless everything is there, signed, and accepted by
the installer's own reader.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_path
from importlib import metadata
from pathlib import Path

from devices.profile import DeviceProfile
from edgekit import installer
from edgekit.artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from edgekit.artifact import Artifact, FileEntry
from edgekit.errors import GateError, InputError, UsageError
from edgekit.files import FolderExistsError, require_space, staged_folder
from edgekit.progress import Progress
from edgekit.store import safe_name
from edgekit.workflows.bundle import install_stub
from edgekit.workflows.bundle.archive import write_tar
from edgekit.workflows.bundle.bill_of_materials import bill_of_materials
from edgekit.workflows.bundle.fit import needed_memory
from edgekit.workflows.bundle.gather import gather
from edgekit.workflows.bundle.keys import SigningKey, fingerprint, signing_key
from edgekit.workflows.bundle.licences import write_licences
from edgekit.workflows.bundle.manifest import (
    MANIFEST_NAME,
    RECORDS_NAME,
    SIGNATURE_NAME,
    BundleManifest,
    list_files,
    to_json,
)
from edgekit.workflows.bundle.targets import LOCKS, Target, engines_for
from edgekit.workflows.bundle.wheel_facts import WheelFacts, record_sha256
from edgekit.workflows.sources.base import copy_hashed

Named = tuple[str, Artifact]
MOST_NAME_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class BuiltBundle:
    """A bundle that stands on disk; `tar` is the archive of it, if one was asked for."""

    path: Path
    manifest: BundleManifest
    wheels: tuple[WheelFacts, ...]
    key: SigningKey
    tar: Path | None = None

    @property
    def total_bytes(self) -> int:
        """Return the size of all files, without the manifest and its signature."""
        return sum(file.bytes for file in self.manifest.files)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the key that signed it."""
        return fingerprint(self.key.public)


def build(
    artifacts: Sequence[Path],
    profile: DeviceProfile,
    out: Path,
    *,
    python: str,
    key: Path | None,
    progress: Progress,
    formats: Sequence[str] = (),
    context_length: int | None = None,
    wheelhouse: Path | None = None,
    locks: Path | None = None,
    replace: bool = False,
    tar: bool = False,
) -> BuiltBundle:
    """Make the folder `out` for `profile`: artifacts, wheels, installer, signature.

    `python` is the minor version on the device ("3.11"). `key` is a private key file, by default
    the one in the store, which is made if there is none. `formats` are the engines to bring, by
    default those that the artifacts need, or all if there are no artifacts. `context_length` is
    the context, in tokens, for which the memory has to be enough. Wheels in `wheelhouse` are taken
    before others; `locks` is the folder of lock files, by default edgekit's own.

    Raises UsageError, InputError (damaged artifact, existing `out`), MissingExtraError,
    GateError (the device cannot run it, disk), PrivacyError.
    """
    out = out.absolute()
    archive = out.with_name(out.name + ".tar") if tar else None
    _refuse_existing(out, archive, replace)
    target = Target.of(profile, python)
    named = [_open(path) for path in artifacts]
    _refuse_namesakes(named)
    engines = engines_for(profile, target, _wanted(named, formats))
    memory_bytes = needed_memory([artifact for _, artifact in named], profile, context_length)
    signer = signing_key(key)
    with tempfile.TemporaryDirectory(prefix="edgekit-bundle-") as work:
        wheels = gather(target, engines, locks or LOCKS, wheelhouse, Path(work), progress)
        _check_glibc(wheels, profile)
        parts = _Parts(profile, target, named, wheels, memory_bytes)
        require_space(out.parent, (2 if tar else 1) * parts.bytes)
        with staged_folder(out, replace=replace) as staging:
            manifest = parts.write(staging, signer, progress)
    if archive is not None:
        write_tar(out, archive, progress)
    packed = tuple(replace_path(wheel, path=out / "wheels" / wheel.path.name) for wheel in wheels)
    return BuiltBundle(out, manifest, packed, signer, archive)


@dataclass(frozen=True, slots=True)
class _Parts:
    """All that goes into a bundle."""

    profile: DeviceProfile
    target: Target
    artifacts: Sequence[Named]
    wheels: Sequence[WheelFacts]
    memory_bytes: int

    @property
    def bytes(self) -> int:
        """Return about how much disk it takes."""
        models = sum(artifact.manifest.total_bytes for _, artifact in self.artifacts)
        return models + sum(wheel.path.stat().st_size for wheel in self.wheels)

    @property
    def name(self) -> str:
        first = self.artifacts[0][0] if self.artifacts else "edgekit"
        return f"{first}-{safe_name(self.profile.name)}"[:MOST_NAME_CHARACTERS]

    def write(self, folder: Path, signer: SigningKey, progress: Progress) -> BundleManifest:
        """Fill the empty `folder`; the manifest and its signature come last."""
        version = metadata.version("edgekit")
        known = self._copy_artifacts(folder, progress)
        (folder / "wheels").mkdir()
        for wheel in self.wheels:
            shutil.copyfile(wheel.path, folder / "wheels" / wheel.path.name)
        _copy_installer(folder)
        write_licences(folder / "licences", self.wheels, self.artifacts)
        bill = bill_of_materials(self.name, version, self.wheels, self.artifacts)
        (folder / "sbom.cdx.json").write_bytes(bill)
        records = {f"wheels/{w.path.name}": record_sha256(w.path) for w in self.wheels}
        (folder / RECORDS_NAME).write_bytes(to_json(records))
        manifest = self._manifest(version, list_files(folder, known, progress))
        _sign(folder, manifest, signer)
        return manifest

    def _copy_artifacts(self, folder: Path, progress: Progress) -> dict[str, FileEntry]:
        """Copy the artifacts, checking every hash on the way. Raises InputError."""
        total = sum(artifact.manifest.total_bytes for _, artifact in self.artifacts)
        known: dict[str, FileEntry] = {}
        with progress.task("copying artifacts", total) as advance:
            for name, artifact in self.artifacts:
                inside = f"artifacts/{name}"
                for entry in artifact.manifest.files:
                    path = folder / inside / entry.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with (artifact.path / entry.path).open("rb") as stream:
                        copied = copy_hashed(stream, path, advance)
                    if copied.sha256 != entry.sha256:
                        raise InputError(
                            f"artifact {artifact.path}: {entry.path} does not match its SHA-256",
                            hint="convert it again, or copy it again",
                        )
                    label = f"{inside}/{entry.path}"
                    known[label] = FileEntry(label, copied.bytes, copied.sha256)
                text = artifact.manifest.to_json()
                (folder / inside / ARTIFACT_MANIFEST).write_bytes(text)
        return known

    def _manifest(self, version: str, files: Sequence[FileEntry]) -> BundleManifest:
        wheels = tuple(f"wheels/{wheel.path.name}" for wheel in self.wheels)
        packed = sum(file.bytes for file in files if file.path in wheels)
        unpacked = sum(wheel.unpacked_bytes for wheel in self.wheels)
        return BundleManifest(
            name=self.name,
            edgekit=version,
            device=safe_name(self.profile.name),
            machine=self.target.machine,
            python=self.target.python,
            glibc=_glibc(self.wheels) if self.target.system == "linux" else (0, 0),
            cpu_features=self.profile.least_cpu_features,
            memory_bytes=self.memory_bytes,
            installed_bytes=sum(file.bytes for file in files) - packed + unpacked,
            artifacts=tuple(f"artifacts/{name}" for name, _ in self.artifacts),
            wheels=tuple(sorted(wheels)),
            files=tuple(files),
        )


def _refuse_existing(out: Path, archive: Path | None, replace: bool) -> None:
    """Raise InputError before the work rather than after it, and never replace a stranger."""
    if out.exists() and replace:
        strange = not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_NAME).is_file())
        if strange:
            raise InputError(f"{out} is no bundle, so it is not replaced", "choose another folder")
    elif found := next((path for path in (out, archive) if path and path.exists()), None):
        raise FolderExistsError(
            f"{found} exists already", hint="choose another folder, or replace it with --replace"
        )


def _open(path: Path) -> Named:
    return safe_name(path.resolve().name), Artifact.open(path)


def _refuse_namesakes(named: Sequence[Named]) -> None:
    seen: dict[str, Path] = {}
    for name, artifact in named:
        if other := seen.get(name.casefold()):
            raise UsageError(
                f"{other} and {artifact.path} would both be called {name} on the device",
                hint="name each artifact once, or rename one folder",
            )
        seen[name.casefold()] = artifact.path


def _wanted(named: Sequence[Named], formats: Sequence[str]) -> list[str]:
    """Return the engines that are asked for. Raises UsageError if an artifact has another one."""
    needed = [artifact.manifest.format for _, artifact in named]
    for name, artifact in named:
        if formats and artifact.manifest.format not in formats:
            raise UsageError(
                f"{name} is a {artifact.manifest.format} artifact, and the bundle is asked to "
                f"bring only {', '.join(formats)}",
                hint=f"add --format {artifact.manifest.format}, or leave --format out",
            )
    return list(formats or needed)


def _glibc(wheels: Sequence[WheelFacts]) -> tuple[int, int]:
    return max(wheel.glibc for wheel in wheels)


def _check_glibc(wheels: Sequence[WheelFacts], profile: DeviceProfile) -> None:
    has = profile.glibc
    for wheel in wheels:
        if has != (0, 0) and wheel.glibc > has:
            needs, there = (".".join(map(str, version)) for version in (wheel.glibc, has))
            raise GateError(
                f"{wheel.path.name} needs glibc {needs}, {profile.name} has {there}",
                hint="a newer system on the device brings a newer glibc",
            )


def _copy_installer(folder: Path) -> None:
    """Copy the installer, which is standard library only, and the stub that starts it."""
    (folder / "installer").mkdir()
    for path in sorted(Path(installer.__file__).parent.glob("*.py")):
        shutil.copyfile(path, folder / "installer" / path.name)
    shutil.copyfile(install_stub.__file__, folder / "install.py")


def _sign(folder: Path, manifest: BundleManifest, signer: SigningKey) -> None:
    """Write the manifest and its signature, and let the installer's own reader judge them."""
    from edgekit.installer.bundle import open_bundle, verify_names, verify_signature
    from edgekit.installer.errors import InstallerError

    data = manifest.to_json()
    (folder / MANIFEST_NAME).write_bytes(data)
    (folder / SIGNATURE_NAME).write_bytes(signer.signature_json(data))
    try:
        bundle = open_bundle(folder)
        verify_signature(bundle)
        verify_names(bundle)
    except InstallerError as error:
        staging = re.escape(str(folder))
        message = re.sub(f"{staging}/?", "", error.message)
        raise InputError(f"the installer would refuse this bundle: {message}") from error
