"""Which public keys are trusted on this device: trusted.json, and what --trust names.

The first installation trusts the key of its bundle. Later bundles must be signed by a trusted
key, or by one that --trust names.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from pathlib import Path

from .bundle import Bundle, fingerprint
from .disk import write_atomically
from .errors import BundleError, UsageError
from .manifest import parse_json
from .prefix import Prefix

_MOST_KEY_FILE_BYTES = 4096
# SubjectPublicKeyInfo of an Ed25519 key: these bytes, then the key (RFC 8410).
_SPKI = bytes.fromhex("302a300506032b6570032100")


def trusted_keys(prefix: Prefix) -> list[bytes]:
    """Return the public keys that are trusted here. Raises BundleError for a damaged list."""
    path = prefix.path / "trusted.json"
    try:
        values = parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        return []
    keys = values.get("public_keys") if isinstance(values, dict) else None
    if not isinstance(keys, list) or not all(_is_hex(key) for key in keys):
        raise BundleError(f"{path} is damaged", hint="install again, with --trust and the key")
    return [bytes.fromhex(key) for key in keys]


def trust_key(prefix: Prefix, key: bytes, others: list[bytes]) -> None:
    """Write down that `key` is trusted beside the `others`."""
    keys = sorted({key.hex(), *(other.hex() for other in others)})
    data = json.dumps({"public_keys": keys}, indent=2, sort_keys=True) + "\n"
    path = prefix.path / "trusted.json"
    if not path.exists() or path.read_bytes() != data.encode():
        write_atomically(path, data.encode())


def require_trust(bundle: Bundle, prefix: Prefix, named: str) -> list[bytes]:
    """Return the keys trusted before; raise BundleError if the bundle's key may not install here.

    `named` is what --trust gave: a public key, its fingerprint, a file with one of them, or "".
    """
    installed = bool(prefix.linked("current"))
    before = trusted_keys(prefix) if installed and not named else _readable_keys(prefix, installed)
    if named:
        wanted = parse_trust(named)
        if wanted not in (bundle.public_key.hex(), bundle.fingerprint):
            raise BundleError(
                f"the bundle is signed by the key with the fingerprint {bundle.fingerprint}, "
                f"and --trust names {wanted}",
                hint="do not install it unless you know whose key that is",
            )
    elif installed and bundle.public_key not in before:
        known = ", ".join(fingerprint(key) for key in before) or "none"
        raise BundleError(
            f"the bundle is signed by a key that is not trusted here ({bundle.fingerprint}); "
            f"trusted is {known}",
            hint="if you know whose key that is, name it: --trust FINGERPRINT",
        )
    return before


def parse_trust(named: str) -> str:
    """Return 64 hex digits, a key or a fingerprint, from text or from a file of a public key."""
    if _is_hex(named.lower()):
        return named.lower()
    path = Path(named)
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_KEY_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--trust {named!r:.100} is neither 64 hex digits nor a file that can be read"
        ) from error
    found = _key_in(data)
    if not found:
        raise UsageError(f"--trust: {path} holds no Ed25519 public key")
    return found


def _key_in(data: bytes) -> str:
    text = data.decode("ascii", "replace")
    pem = re.search(r"-----BEGIN PUBLIC KEY-----\s+(.+?)\s+-----END", text, re.DOTALL)
    if pem:
        try:
            der = base64.b64decode("".join(pem[1].split()))
        except binascii.Error:
            return ""
        return der[len(_SPKI) :].hex() if der[:-32] == _SPKI else ""
    found = re.search(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])", text)
    return found[0].lower() if found and "PRIVATE" not in text else ""


def _readable_keys(prefix: Prefix, installed: bool) -> list[bytes]:
    """Return the trusted keys where they matter, none where the list cannot be read."""
    try:
        return trusted_keys(prefix) if installed else []
    except BundleError:
        return []


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
