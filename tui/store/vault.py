"""The vault: the header that wraps a store's key by a passphrase, and the sealer of its records.

Construction: each record is sealed by ChaCha20-Poly1305 (RFC 8439) with a random 96-bit nonce,
bound to its store and its row (associated data). The data key is random; Argon2id (RFC 9106) of
the passphrase wraps it. Changing the passphrase makes a new data key and seals everything again.
The search index lives in memory only.

Why not SQLCipher, which was measured too: it is one more native library (7 MB a platform, and
bound to an SQLite version), it writes ERROR lines to stderr, and reading 10,000 messages is no
faster (25 ms against 48 ms). It would hide counts and sizes, which this does not. ChaCha20 and
not AES: small boards (BCM2711) have no AES instructions, and AES in software leaks by its timing.

What one who holds the file, and not the passphrase, still learns:
- the number of records (chats, messages, personas and small values together) and the rounded size
  of each. Sizes are padded by Padmé (Nikitin et al. 2019, at most 12 % more), 256 bytes at least.
  The record that lists a chat's messages grows by 24 bytes a message, so a large one gives away
  about how many a long chat holds. Which records make a chat is not visible, nor are titles, times,
  roles or models: row numbers are keyed hashes;
- the times of the file; and, from copies of it at several moments, when how much was written and
  which records changed together;
- the cost of the key derivation, and that it is an edgekit store.

What one who can also write the file can do:
- destroy it. Whatever still opens is offered; nothing is guessed;
- a record that was changed, swapped, removed or replaced by its older version is noticed and
  reported: each chat lists the tags of its messages, and one root record the tags of the chats;
- put back an older copy of the whole file, or cut the newest commits off the write-ahead log: this
  is NOT noticed. It would need a counter that lives elsewhere.

Who knew an old passphrase and kept an old copy of the file can read that copy for ever, and nothing
written after the change. Text in use is in the memory of the process, and may be swapped to disk.
"""

from __future__ import annotations

import hashlib
import os
import struct
import unicodedata
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgekit.errors import GateError, InputError, PrivacyError
from edgekit.extras import need
from edgekit.units import format_bytes
from tui.store.sealing import DamagedError, PlainSealer, Sealer

if TYPE_CHECKING:  # 50 ms, which a plain store does not pay
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PLAIN_MAGIC = b"edgekit chats 1\0"
SEALED_MAGIC = b"edgekit vault 1\0"
ID_BYTES, SALT_BYTES, KEY_BYTES, NONCE_BYTES, CHECK_BYTES = 16, 16, 32, 12, 16
SMALLEST_BYTES = 256
# Store id, salt; then memory in KiB, passes and lanes of Argon2id.
_FIELDS = struct.Struct(f"<{ID_BYTES}s{SALT_BYTES}sIII")
_WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + 16
PLAIN_HEADER_BYTES = len(PLAIN_MAGIC) + ID_BYTES + CHECK_BYTES
SEALED_HEADER_BYTES = len(SEALED_MAGIC) + _FIELDS.size + _WRAPPED_BYTES + CHECK_BYTES


class WrongPassphraseError(PrivacyError):
    """The passphrase is not the one of the store. Whoever typed it may try again."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a guess of the passphrase costs: Argon2id's memory, passes and lanes.

    The default is RFC 9106's second recommendation: about a quarter of a second on two laptop
    cores, a second on a small board.
    """

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4

    def check(self) -> None:
        """Raise InputError for a cost that no header of ours has: it would eat the machine."""
        fine = self.passes in range(1, 17) and self.lanes in range(1, 17)
        if not fine or self.memory_kib not in range(8 * self.lanes, 512 * 1024 + 1):
            raise InputError(
                f"the store's header asks for {format_bytes(self.memory_kib * 1024)} of memory, "
                f"{self.passes} passes and {self.lanes} lanes to make the key, beyond the limits",
                hint="the file is damaged or was made to harm: put back a copy of yours",
            )


def new_plain_header() -> bytes:
    """Return the header of a new store that is not encrypted."""
    return _checked(PLAIN_MAGIC + os.urandom(ID_BYTES))


def plain_sealer(header: bytes) -> Sealer:
    """Return the sealer of the plain store with this header."""
    return PlainSealer(store_id(header))


def new_sealed_header(
    passphrase: str, cost: Cost, same_id: bytes | None = None
) -> tuple[bytes, Sealer]:
    """Return the header of a new encrypted store, with a new data key, and its sealer.

    `same_id` is the id of the store if there is one already. Takes as long as the key derivation.
    Raises PrivacyError for an empty passphrase.
    """
    cost.check()
    fields = _FIELDS.pack(
        same_id or os.urandom(ID_BYTES),
        salt := os.urandom(SALT_BYTES),
        cost.memory_kib,
        cost.passes,
        cost.lanes,
    )
    data_key, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    wrapping = _cipher(_derive(passphrase, salt, cost))
    wrapped = wrapping.encrypt(nonce, data_key, SEALED_MAGIC + fields)
    return _checked(SEALED_MAGIC + fields + nonce + wrapped), VaultSealer(data_key)


def unlock(header: bytes, passphrase: str) -> Sealer:
    """Return the sealer of the encrypted store with this header.

    Raises WrongPassphraseError, and InputError for a cost out of bounds.
    """
    from cryptography.exceptions import InvalidTag

    fields_end = len(SEALED_MAGIC) + _FIELDS.size
    _, salt, memory_kib, passes, lanes = _FIELDS.unpack(header[len(SEALED_MAGIC) : fields_end])
    cost = Cost(memory_kib, passes, lanes)
    cost.check()
    wrapped = header[fields_end:-CHECK_BYTES]
    wrapping = _cipher(_derive(passphrase, salt, cost))
    try:
        data_key = wrapping.decrypt(
            wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], header[:fields_end]
        )
    except InvalidTag:
        raise WrongPassphraseError(
            "the passphrase is wrong",
            hint="try again: capitals and the keyboard's language matter; nothing can reset it",
        ) from None
    return VaultSealer(data_key)


def store_id(header: bytes) -> bytes:
    """Return the id of the store with this header, 16 bytes."""
    return header[len(SEALED_MAGIC) : len(SEALED_MAGIC) + ID_BYTES]


def is_sealed(header: bytes) -> bool:
    """Return whether the header is that of an encrypted store."""
    return header.startswith(SEALED_MAGIC)


def is_header(data: bytes) -> bool:
    """Return whether `data` is an undamaged header: a checksum tells it from a wrong passphrase."""
    lengths = {PLAIN_MAGIC: PLAIN_HEADER_BYTES, SEALED_MAGIC: SEALED_HEADER_BYTES}
    fits = lengths.get(data[: len(PLAIN_MAGIC)]) == len(data)
    return fits and _checked(data[:-CHECK_BYTES]) == data


def _checked(header: bytes) -> bytes:
    return header + hashlib.blake2b(header, digest_size=CHECK_BYTES).digest()


def _derive(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    argon2 = need("cryptography.hazmat.primitives.kdf.argon2", extra="chat")
    from cryptography.exceptions import UnsupportedAlgorithm

    secret = _secret(passphrase)
    try:
        kdf = argon2.Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=cost.passes,
            lanes=cost.lanes,
            memory_cost=cost.memory_kib,
        )
        key: bytes = kdf.derive(secret)
    except UnsupportedAlgorithm as error:
        raise PrivacyError(
            "this build of the package 'cryptography' has no Argon2id",
            hint="pip install --upgrade cryptography (its wheels have it)",
        ) from error
    except MemoryError as error:
        raise GateError(
            f"making the key needs {format_bytes(cost.memory_kib * 1024)} of free memory",
            hint="end other programs and try again",
        ) from error
    return key


def _secret(passphrase: str) -> bytes:
    """Return the passphrase's bytes, the same on keyboards that compose accents differently."""
    if not passphrase:
        raise PrivacyError("the passphrase is empty", hint="choose one of several words")
    try:
        return unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PrivacyError(
            "the passphrase holds characters that are no text", hint="type it again"
        ) from None


def _cipher(key: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


class VaultSealer:
    """Encrypts records, padded so that their sizes say little."""

    def __init__(self, data_key: bytes) -> None:
        from cryptography.exceptions import InvalidTag

        self._invalid_tag = InvalidTag
        derive = partial(hashlib.blake2b, key=data_key, digest_size=KEY_BYTES)
        self._cipher = _cipher(derive(person=b"edgekit seal").digest())
        self.place_key = derive(person=b"edgekit place").digest()

    def seal(self, aad: bytes, plain: bytes) -> bytes:
        """Return nonce, ciphertext and tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, _padded(plain), aad)

    def open(self, aad: bytes, sealed: bytes) -> bytes:
        """Return what was sealed. Raises DamagedError."""
        try:
            padded = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
        except (self._invalid_tag, ValueError):  # ValueError: shorter than a nonce
            raise DamagedError("it does not open") from None
        (length,) = struct.unpack_from("<I", padded)
        return padded[4 : 4 + length]


def _padded(plain: bytes) -> bytes:
    return (struct.pack("<I", len(plain)) + plain).ljust(padme(4 + len(plain)), b"\0")


def padme(length: int) -> int:
    """Return the padded length: Padmé (Nikitin et al. 2019, algorithm 1), 256 at least.

    Of a length's bits only about the logarithm of their number stays free, as in a float.
    """
    length = max(length, SMALLEST_BYTES)
    exponent = length.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return (length + mask) & ~mask
