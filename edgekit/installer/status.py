"""What is installed in a prefix, and whether it is still right. Changes nothing, needs no lock."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .bundle import fingerprint, open_bundle
from .errors import BundleError
from .installed import Checked, check_version, read_list
from .narration import Narration
from .prefix import Prefix
from .remove import require_installed
from .trust import trusted_keys


def status(prefix: Prefix) -> dict[str, Any]:
    """Return the versions, the trusted keys and what stopped runs left."""
    require_installed(prefix)
    return {
        "prefix": str(prefix.path),
        "current": _facts(prefix, "current"),
        "previous": _facts(prefix, "previous"),
        "trusted": [fingerprint(key) for key in trusted_keys(prefix)],
        "leftovers": prefix.leftovers(),
        "unfinished": prefix.journal.exists() or prefix.marker.exists(),
    }


def _facts(prefix: Prefix, link: str) -> dict[str, Any] | None:
    name = prefix.linked(link)
    if not name:
        return None
    try:
        manifest = open_bundle(prefix.version(name)).manifest
        size = sum(size for size, _ in read_list(prefix.version(name)).values())
    except BundleError as error:
        return {"id": name, "fault": error.message}
    return {
        "id": name,
        "name": manifest.name,
        "edgekit": manifest.edgekit,
        "device": manifest.device,
        "artifacts": [path.split("/")[1] for path in manifest.artifacts],
        "bytes": size,
    }


def verify_installed(prefix: Prefix, narration: Narration) -> dict[str, Any]:
    """Hash every file of both versions. Raises BundleError if the current one has a fault.

    A fault of the previous version is reported, and is an error only for a rollback.
    """
    require_installed(prefix)
    keys = trusted_keys(prefix)
    facts: dict[str, Any] = {"prefix": str(prefix.path)}
    for link in ("current", "previous"):
        name = prefix.linked(link)
        facts[link] = {"id": name, **_check(prefix, name, keys, narration)} if name else None
    current = facts["current"]
    if current is None:
        raise BundleError(f"no version is current in {prefix.path}", hint="install the bundle")
    return facts


def _check(prefix: Prefix, name: str, keys: list[bytes], narration: Narration) -> dict[str, Any]:
    version = prefix.version(name)
    try:
        total = sum(size for size, _ in read_list(version).values())
    except BundleError as error:
        return asdict(Checked(faults=[error.message]))
    return asdict(check_version(version, keys, narration.counting(f"checking {name}", total)))
