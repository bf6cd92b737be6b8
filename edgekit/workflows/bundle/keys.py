"""Ed25519 keys for bundles: make one, open one, sign, and say a public key's fingerprint.

The private key is a PKCS #8 PEM file that only its owner may read. It is not encrypted: whoever
signs unattended would have to store the passphrase beside it. Verifying needs none of this.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import store
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.files import disk_errors, fsync_folder, make_folder

ALGORITHM = "ed25519"
SIGNED_PREFIX = b"edgekit bundle 1\n"
MAX_KEY_BYTES = 64 << 10
_EXTRA = "bundle"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that was opened; `made` says that it was made just now."""

    path: Path
    private: Any
    made: bool = False

    @property
    def public(self) -> bytes:
        """Return the public key: 32 bytes."""
        public: bytes = self.private.public_key().public_bytes_raw()
        return public

    def signature_json(self, manifest: bytes) -> bytes:
        """Return the content of bundle.sig for the bytes of bundle.json."""
        signature: bytes = self.private.sign(SIGNED_PREFIX + manifest)
        document = {
            "algorithm": ALGORITHM,
            "public_key": self.public.hex(),
            "signature": signature.hex(),
        }
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def default_key() -> Path:
    """Return where the key lies that signs bundles if no other is named."""
    return store.home() / "keys" / "bundle.pem"


def fingerprint(public: bytes) -> str:
    """Return the SHA-256 of a public key in hex, as people compare it."""
    return hashlib.sha256(public).hexdigest()


def make_key(path: Path) -> SigningKey:
    """Write a new private key to `path` and return it.

    Raises InputError if there is a file already: bundles signed by it would lose their key.
    """
    ed25519 = need("cryptography.hazmat.primitives.asymmetric.ed25519", _EXTRA)
    serialization = need("cryptography.hazmat.primitives.serialization", _EXTRA)
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    make_folder(path.parent)
    _write_new(path, pem)
    return SigningKey(path, private, made=True)


def open_key(path: Path) -> SigningKey:
    """Return the private key in `path`. Raises InputError, MissingExtraError."""
    serialization = need("cryptography.hazmat.primitives.serialization", _EXTRA)
    ed25519 = need("cryptography.hazmat.primitives.asymmetric.ed25519", _EXTRA)
    try:
        if path.stat().st_size > MAX_KEY_BYTES:
            raise InputError(f"{path} is too large for a key: {path.stat().st_size} bytes")
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it has a passphrase
        raise InputError(
            f"{path} cannot be read as a private key: {error}",
            hint="edgekit bundle keygen -o FILE makes one",
        ) from error
    except Exception as error:
        if type(error).__name__ != "UnsupportedAlgorithm":
            raise
        raise InputError(f"{path} holds a key of an unknown kind: {error}") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise InputError(f"{path} holds a {type(private).__name__}, bundles need Ed25519")
    return SigningKey(path, private)


def signing_key(path: Path | None) -> SigningKey:
    """Return the key in `path`, or the default one, which is made if there is none yet."""
    if path is not None:
        return open_key(path)
    if default_key().exists():
        return open_key(default_key())
    return make_key(default_key())


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, readable by its owner alone, durably."""
    try:
        with disk_errors(path.parent):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(
            f"{path} exists already, and a key is never overwritten",
            hint="name another file with -o",
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream, disk_errors(path.parent):
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
