"""Check a bundle as a device would: with the installer's own reader, which travels in it."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.installer import bundle as reader
from edgekit.installer.errors import InstallerError
from edgekit.installer.trust import parse_trust
from edgekit.progress import Progress

_KINDS: dict[int, type[EdgekitError]] = {2: UsageError, 3: InputError, 5: GateError}


def verify_bundle(folder: Path, trust: str | None, progress: Progress) -> reader.Bundle:
    """Return the bundle in `folder` if its signature and every file are right.

    `trust` names the public key that must have signed it: in hex, its fingerprint, or a file.
    Raises InputError, GateError, UsageError.
    """
    try:
        wanted = None if trust is None else parse_trust(trust)
        bundle = reader.open_bundle(folder)
        if wanted not in (None, bundle.public_key.hex(), bundle.fingerprint):
            raise InputError(
                f"{folder} is signed by {bundle.fingerprint}, and --trust names {wanted}",
                hint="ask whoever made the bundle for the fingerprint of the key",
            )
        total = sum(file.bytes for file in bundle.manifest.files)
        with progress.task("verifying the bundle", total) as advance:
            reader.verify(bundle, advance)
    except InstallerError as error:
        kind = _KINDS.get(error.exit_code, InputError)
        raise kind(error.message, error.hint) from error
    return bundle
