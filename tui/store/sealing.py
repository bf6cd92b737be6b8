"""Sealer: what turns a record into the bytes that are stored, and back.

A sealed record ends in its tag, 16 bytes that no other record has. Here are the protocol and the
sealer of plain stores, which hides nothing; the one that encrypts is in `vault.py`. Knows nothing
of chats or databases.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

TAG_BYTES = 16


class DamagedError(Exception):
    """Stored bytes that cannot be what was stored. Never leaves the store."""


class Sealer(Protocol):
    """Seals and opens records. `aad` is where the record belongs: it opens nowhere else."""

    place_key: bytes
    """16 to 64 bytes from which the number of a record's row is made."""

    def seal(self, aad: bytes, plain: bytes) -> bytes:
        """Return `plain` sealed, with its tag at the end."""

    def open(self, aad: bytes, sealed: bytes) -> bytes:
        """Return what was sealed. Raises DamagedError if it was changed, or sealed elsewhere."""


class PlainSealer:
    """Leaves records readable; a checksum (BLAKE2b, 128 bits) is the tag and finds flipped bits."""

    def __init__(self, store_id: bytes) -> None:
        self.place_key = store_id

    def seal(self, aad: bytes, plain: bytes) -> bytes:
        """Return `plain` and its checksum."""
        return plain + self._checksum(aad, plain)

    def open(self, aad: bytes, sealed: bytes) -> bytes:
        """Return what was sealed. Raises DamagedError."""
        plain, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
        if self._checksum(aad, plain) != tag:
            raise DamagedError("its checksum is wrong")
        return plain

    def _checksum(self, aad: bytes, plain: bytes) -> bytes:
        digest = hashlib.blake2b(aad, digest_size=TAG_BYTES)
        digest.update(plain)
        return digest.digest()
